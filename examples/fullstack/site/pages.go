package site

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/shard"
)

// page answers everything that the log knows: files, pages, redirects, and its honest 404s.
func (s *Site) page(w http.ResponseWriter, r *http.Request) error {
	o := s.Catalog[r.URL.EscapedPath()]
	switch o.Kind {
	case accesslog.File:
		w.Header().Set("Cache-Control", "public, max-age=86400")
		w.Header().Set("Etag", fmt.Sprintf(`"%x-%x"`, seedOf(o.Path), o.Size))
		if strings.HasSuffix(o.Path, ".ico") || !strings.Contains(o.Path[strings.LastIndexByte(o.Path, '/'):], ".") {
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		http.ServeContent(w, r, o.Path, time.Time{}, &content{seed: seedOf(o.Path), size: o.Size})
		return nil
	case accesslog.Redirect:
		w.Header().Set("Cache-Control", "public, max-age=60")
		http.Redirect(w, r, o.To, http.StatusMovedPermanently)
		return nil
	case accesslog.Forbidden:
		return statusError{http.StatusForbidden, "forbidden"}
	case accesslog.Page:
		return s.render(w, r, o.Path)
	}
	w.Header().Set("Cache-Control", "public, max-age=5")
	http.NotFound(w, r)
	return nil
}

// render serves a page row through the cache. Its view is posted by the page itself (see beacon): a hit at the edge is
// a view too, and a prefetch is none.
func (s *Site) render(w http.ResponseWriter, r *http.Request, path string) error {
	e, err := s.Cache.Load(r.Context(), "page:"+path, func(ctx context.Context, _ string) (e Entry, err error) {
		err = s.Shards.Do(ctx, shard.String(path), func(ctx context.Context, db *sql.DB, _ shard.Slot) error {
			return db.QueryRowContext(ctx, `SELECT size, likes FROM pages WHERE path = ?`, path).Scan(&e.Size, &e.Likes)
		})
		return e, notFound(err)
	})
	if errors.Is(err, cache.ErrNotFound) {
		http.NotFound(w, r)
		return nil
	}
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "public, max-age=0, s-maxage=5, stale-while-revalidate=10, stale-if-error=60")
	h.Set("Surrogate-Key", "pages")
	h.Set("Etag", fmt.Sprintf(`"%x-%x-%d"`, seedOf(path), e.Size, e.Likes))
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(s.html(path, e)))
	return nil
}

// html makes a page of the logged size, with links to some others.
func (s *Site) html(path string, e Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "<!doctype html><html lang=en><title>%[1]s</title><h1>%[1]s</h1><p>%[2]d likes</p><ul>",
		escape(path), e.Likes)
	for _, l := range s.links {
		if int64(b.Len()+len(l)) <= e.Size {
			b.WriteString(l)
		}
	}
	b.WriteString("</ul>")
	const filler = "<p>The quick brown fox jumps over the lazy dog.</p>"
	for int64(b.Len()+len(filler)) <= e.Size {
		b.WriteString(filler)
	}
	return b.String()
}

// links are the first pages of the catalog, as list items.
func links(c accesslog.Catalog) (items []string) {
	for _, p := range slices.Sorted(maps.Keys(c)) {
		if c[p].Kind == accesslog.Page && len(items) < 20 {
			items = append(items, `<li><a href="`+escape(p)+`">`+escape(p)+`</a>`)
		}
	}
	return items
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return cache.ErrNotFound
	}
	return err
}

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
		if v.ID == "" || len(v.ID) > 64 || s.Catalog[v.Path].Kind != accesslog.Page {
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

// like is one write: the like and the page's count change together.
func (s *Site) like(w http.ResponseWriter, r *http.Request, user string) error {
	id, err := key(r)
	path := r.URL.Query().Get("page")
	if err != nil || s.Catalog[path].Kind != accesslog.Page {
		return errors.Join(bad("page must name a page"), err)
	}
	err = s.write(r.Context(), shard.String(path), id, "like", func(ctx context.Context, tx *shard.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO likes (slot, page, user) VALUES (?, ?, ?) ON CONFLICT (page, user) DO NOTHING`, int(tx.Slot()), path, user)
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
	s.forget(r.Context(), "page:"+path)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// forget drops a cached row. The write is done, so a second tier that is down must not fail the request: first tiers
// stop serving by themselves while they can't hear invalidations, and a second tier comes back empty.
func (s *Site) forget(ctx context.Context, key string) {
	if err := s.Cache.Drop(ctx, key); err != nil {
		s.Log.WarnContext(ctx, "cache tier did not confirm an invalidation", "key", key, "err", err.Error())
	}
}
