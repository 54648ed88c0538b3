package site

import (
	"context"
	"database/sql"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tierkit/tierkit/cdn"
	"github.com/tierkit/tierkit/shard"
)

// Comment is one on a chapter.
type Comment struct {
	Page   string    `json:"page,omitempty"`
	Author string    `json:"author"`
	Text   string    `json:"text"`
	At     time.Time `json:"at"`
}

const maxComment = 2000 // characters

// comments returns those on a page, the newest last, through both cache tiers.
func (s *Site) comments(ctx context.Context, path string) ([]Comment, error) {
	e, err := s.Cache.Load(ctx, "comments:"+path, func(ctx context.Context, _ string) (e Entry, err error) {
		err = s.Shards.Do(ctx, shard.String(path), func(ctx context.Context, db *sql.DB, _ shard.Slot) (err error) {
			e.Comments, err = readComments(ctx, db, `
				SELECT page, author, text, created FROM comments
				WHERE page = ? ORDER BY created DESC, id LIMIT 50`, path)
			return err
		})
		slices.Reverse(e.Comments)
		return e, err
	})
	return e.Comments, err
}

// commentsBy returns those of one author, the newest first, from all shards: comments are kept with their page.
func (s *Site) commentsBy(ctx context.Context, author string) ([]Comment, error) {
	var mu sync.Mutex
	var all []Comment
	err := s.Shards.Each(ctx, func(ctx context.Context, _ shard.ID, db *sql.DB) error {
		cs, err := readComments(ctx, db, `
			SELECT page, author, text, created FROM comments
			WHERE author = ? ORDER BY created DESC LIMIT 50`, author)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, cs...)
		return err
	})
	slices.SortFunc(all, func(a, b Comment) int { return b.At.Compare(a.At) })
	return all, err
}

func readComments(ctx context.Context, db *sql.DB, query string, arg any) (cs []Comment, err error) {
	rows, err := db.QueryContext(ctx, query, arg)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c Comment
		var created int64
		if err := rows.Scan(&c.Page, &c.Author, &c.Text, &created); err != nil {
			return nil, err
		}
		c.At = time.UnixMilli(created)
		cs = append(cs, c)
	}
	return cs, rows.Err()
}

// comment is one write: the comment and the page's count change together. It answers when no cache and no edge shows
// the page without it.
func (s *Site) comment(w http.ResponseWriter, r *http.Request, user string) error {
	c, err := s.named(r)
	if err != nil {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4*maxComment)
	text := strings.TrimSpace(r.FormValue("text"))
	if n := utf8.RuneCountInString(text); n == 0 || n > maxComment || !utf8.ValidString(text) {
		return bad("a comment has 1 to 2000 characters")
	}
	id, err := keyOr(r, "comment", c.Path, user, text)
	if err != nil {
		return err
	}
	now := time.Now()
	err = s.write(r.Context(), shard.String(c.Path), id, "comment", func(ctx context.Context, tx *shard.Tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO comments (slot, id, page, author, text, created)
			VALUES (?, ?, ?, ?, ?, ?)`, int(tx.Slot()), id, c.Path, user, text, now.UnixMilli())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE pages SET comments = comments + 1 WHERE path = ?`, c.Path)
		return err
	})
	if err != nil {
		return err
	}
	s.forget(r.Context(), "comments:"+c.Path)
	if _, err := s.Edges.Purge(r.Context(), cdn.Match{Tag: "chapter-" + c.Slug}); err != nil {
		s.Log.WarnContext(r.Context(), "an edge did not confirm a purge", "page", c.Path, "err", err.Error())
	}
	return done(w, r, http.StatusCreated, c.Path+"#comments", Comment{Author: user, Text: text, At: now})
}
