package site

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/shard"
)

// logged answers everything that a replayed log knows: files, pages, redirects, and its honest 404s.
func (s *Site) logged(w http.ResponseWriter, r *http.Request) error {
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
