package site

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/shard"
)

// View is one view of a page, posted with an id that the client made: however often it is sent, it counts once.
type View struct {
	ID   string `json:"id"`
	Path string `json:"path"`
}

// beacon takes views and answers when they are durable in the queue.
func (s *Site) beacon(w http.ResponseWriter, r *http.Request) error {
	var views []View
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&views); err != nil || len(views) == 0 ||
		len(views) > 100 {
		return bad("want 1 to 100 views as JSON")
	}
	trace := traced(r.Context())
	msgs := make([]queue.Message, len(views))
	for i, v := range views {
		if v.ID == "" || len(v.ID) > 64 || !s.isPage(v.Path) {
			return bad("view " + strconv.Itoa(i) + " has no id or is of no page")
		}
		body, _ := json.Marshal(v)
		msgs[i] = queue.Message{Topic: TopicViews, Kind: "view", ID: v.ID, Body: body, Header: trace}
	}
	if _, err := s.Queue.PublishBatch(r.Context(), msgs); err != nil {
		return err
	}
	s.published.Add(int64(len(msgs)))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// isPage reports whether a path is one that readers view and like.
func (s *Site) isPage(path string) bool {
	return s.byPath[path] != nil || s.Catalog[path].Kind == accesslog.Page
}

// like is one write: the like and the page's count change together.
func (s *Site) like(w http.ResponseWriter, r *http.Request, user string) error {
	id, err := key(r)
	path := r.URL.Query().Get("page")
	if err != nil || !s.isPage(path) {
		return errors.Join(bad("page must name a page"), err)
	}
	if err := s.addLike(r.Context(), path, user, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// likeChapter is like for the page's own form. The user and the page name the write: liking twice is liking once.
func (s *Site) likeChapter(w http.ResponseWriter, r *http.Request, user string) error {
	c, err := s.named(r)
	if err != nil {
		return err
	}
	id, err := keyOr(r, "like", c.Path, user)
	if err != nil {
		return err
	}
	if err := s.addLike(r.Context(), c.Path, user, id); err != nil {
		return err
	}
	counts, err := s.counts(r.Context())
	if err != nil {
		return err
	}
	return done(w, r, http.StatusOK, c.Path, map[string]int64{"likes": counts[c.Path].Likes})
}

func (s *Site) addLike(ctx context.Context, path, user, id string) error {
	err := s.write(ctx, shard.String(path), id, "like", func(ctx context.Context, tx *shard.Tx) error {
		res, err := tx.ExecContext(ctx, `
			INSERT INTO likes (slot, page, user) VALUES (?, ?, ?)
			ON CONFLICT (page, user) DO NOTHING`, int(tx.Slot()), path, user)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE pages SET likes = likes + 1 WHERE path = ?`, path)
		return err
	})
	if err != nil {
		return err
	}
	s.lists.Delete("counts")
	s.forget(ctx, "page:"+path)
	return nil
}

// forget drops a cached row. The write is done, so a second tier that is down must not fail the request: first tiers
// stop serving by themselves while they can't hear invalidations, and a second tier comes back empty.
func (s *Site) forget(ctx context.Context, key string) {
	if err := s.Cache.Drop(ctx, key); err != nil {
		s.Log.WarnContext(ctx, "cache tier did not confirm an invalidation", "key", key, "err", err.Error())
	}
}
