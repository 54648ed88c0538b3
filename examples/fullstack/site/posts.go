package site

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net/http"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cdn"
	"github.com/tierkit/tierkit/shard"
)

func (s *Site) post(w http.ResponseWriter, r *http.Request, user string) error {
	id, err := key(r)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<10))
	if err != nil || len(text) == 0 {
		return bad("a post has 1 to 4096 bytes")
	}
	err = s.write(r.Context(), shard.String(id), id, "post", func(ctx context.Context, tx *shard.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO posts (slot, id, author, text, deleted) VALUES (?, ?, ?, ?, 0)`,
			int(tx.Slot()), id, user, string(text))
		return err
	})
	if err != nil {
		return err
	}
	s.forget(r.Context(), "post:"+id) // somebody may have asked for it before it was there
	w.Header().Set("Location", "/-/posts/"+id)
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Site) readPost(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	e, err := s.Cache.Load(r.Context(), "post:"+id, func(ctx context.Context, _ string) (e Entry, err error) {
		err = s.Shards.Do(primary(ctx), shard.String(id), func(ctx context.Context, db *sql.DB, _ shard.Slot) error {
			return db.QueryRowContext(ctx, `SELECT text, deleted FROM posts WHERE id = ?`, id).Scan(&e.Text, &e.Gone)
		})
		return e, notFound(err)
	})
	if errors.Is(err, cache.ErrNotFound) || err == nil && e.Gone {
		w.Header().Set("Cache-Control", "no-store")
		http.NotFound(w, r)
		return nil
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "public, max-age=0, s-maxage=60")
	w.Header().Set("Surrogate-Key", "post-"+id)
	_, err = io.WriteString(w, e.Text)
	return err
}

// deletePost answers when no server and no edge shows the post any more: database, then both cache tiers, then the
// edges.
func (s *Site) deletePost(w http.ResponseWriter, r *http.Request, user string) error {
	id, err := key(r)
	if err != nil {
		return err
	}
	post := r.PathValue("id")
	err = s.write(r.Context(), shard.String(post), id, "delete", func(ctx context.Context, tx *shard.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE posts SET deleted = 1, text = '' WHERE id = ? AND author = ?`, post,
			user)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, statusError{http.StatusNotFound, "no such post of yours"})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !s.KeepCacheOnDelete {
		s.forget(r.Context(), "post:"+post)
	}
	if _, err := s.Edges.Purge(r.Context(), cdn.Match{Tag: "post-" + post}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
