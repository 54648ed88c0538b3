package cdn

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// Match selects objects to purge: exactly one of URL, Prefix, Tag and All.
type Match struct {
	URL    string `json:"url,omitempty"`    // absolute URL, all its variants
	Prefix string `json:"prefix,omitempty"` // of absolute URLs
	Tag    string `json:"tag,omitempty"`    // surrogate key
	All    bool   `json:"all,omitempty"`
	// mark stale instead of removing: the next request revalidates, and stale may serve meanwhile
	Soft bool `json:"soft,omitempty"`
}

func (m Match) check() error {
	n := 0
	for _, set := range []bool{m.URL != "", m.Prefix != "", m.Tag != "", m.All} {
		if set {
			n++
		}
	}
	if n != 1 {
		return errors.New("cdn: Match: want exactly one of URL, Prefix, Tag and All")
	}
	return nil
}

// Purger purges objects somewhere: this cache, all edges of a fleet, a vendor's CDN.
type Purger interface {
	Purge(ctx context.Context, m Match) (int, error)
}

// Purge removes what matches, also what fetches that run now would bring. It returns the number of objects in memory
// and on disk that it hit; when it returns, no request that starts later gets one of them. URL and Prefix are compared
// with keys, which by default are URLs.
func (c *Cache) Purge(ctx context.Context, m Match) (int, error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	c.closing.RLock()
	closed := c.closed
	c.closing.RUnlock()
	if closed {
		return 0, ErrClosed
	}
	n := 0
	switch {
	case m.URL != "":
		key, err := normalURL(m.URL)
		if err != nil {
			return 0, err
		}
		m.URL = key
		n = c.purgeMemory(key, m.Soft)
	case m.Tag != "":
		c.fetches.purgeTag(m.Tag)
		for _, o := range c.tags.of(m.Tag) {
			n += c.purgeObject(o, m.Soft)
		}
	default:
		match := func(key string) bool { return strings.HasPrefix(key, m.Prefix) }
		c.fetches.purge(match)
		c.index.prefixed(m.Prefix, func(e *entry) {
			for _, o := range e.everything() {
				n += c.purgeObject(o, m.Soft)
			}
		})
	}
	if c.disk != nil {
		k, err := c.disk.purge(m)
		n += k
		if err != nil {
			return n, err
		}
	}
	c.count.purged.Add(uint64(n))
	return n, ctx.Err()
}

// normalURL brings a URL into the form that KeyURL gives.
func normalURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("cdn: Match.URL %q: want an absolute URL", s)
	}
	r := &http.Request{Host: u.Host, URL: u}
	key := string(KeyURL(nil, r))
	if strings.EqualFold(u.Scheme, "https") {
		key = "https://" + strings.TrimPrefix(key, "http://")
		if rest, ok := strings.CutPrefix(key, "https://"+strings.ToLower(u.Hostname())+":443"); ok {
			key = "https://" + strings.ToLower(u.Hostname()) + rest
		}
	}
	return key, nil
}

func (c *Cache) purgeMemory(key string, soft bool) (n int) {
	c.fetches.purge(func(k string) bool { return k == key })
	if e := c.index.find(c.hashString(key), []byte(key)); e != nil {
		for _, o := range e.everything() {
			n += c.purgeObject(o, soft)
		}
		e.passing.Store(0)
	}
	c.index.prefixed(key+"\x00", func(e *entry) { // its slices
		for _, o := range e.everything() {
			c.purgeObject(o, soft)
		}
	})
	return n
}

// isSlice is whether a key is that of a slice: those are not counted, the object that they belong to is.
func isSlice(key string) bool { return strings.IndexByte(key, 0) >= 0 }

// purgeObject purges an object and those that took its place since it was found.
func (c *Cache) purgeObject(o *object, soft bool) (n int) {
	for ; o != nil; o = o.next.Load() {
		o.purged.Store(!soft)
		switch {
		case soft && !o.soft.Swap(true) && !o.gone.Load(), !soft && c.remove(o):
			if !isSlice(o.key) {
				n = 1
			}
		}
	}
	return n
}

// PurgeHandler answers POST with a JSON [Match] when auth allows it; a nil auth refuses everything. The answer is
// {"purged": n}.
func (c *Cache) PurgeHandler(auth func(*http.Request) bool) http.Handler {
	return PurgeHandler(c, auth)
}

// PurgeHandler is Cache.PurgeHandler for any Purger, such as a whole fleet.
func PurgeHandler(p Purger, auth func(*http.Request) bool) http.Handler {
	protect := http.NewCrossOriginProtection()
	return protect.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", "POST")
			http.Error(w, "POST a match", http.StatusMethodNotAllowed)
			return
		}
		if auth == nil || !auth(r) {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		var m Match
		d := json.NewDecoder(io.LimitReader(r.Body, 64<<10))
		d.DisallowUnknownFields()
		if err := d.Decode(&m); err != nil {
			http.Error(w, "malformed match", http.StatusBadRequest)
			return
		}
		if m.check() != nil {
			http.Error(w, "want exactly one of url, prefix, tag and all", http.StatusBadRequest)
			return
		}
		n, err := p.Purge(r.Context(), m)
		if err != nil {
			http.Error(w, "purge failed", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, "{\"purged\":%d}\n", n)
	}))
}

// PurgeAll is a Purger that asks several, all at once; the counts add up and the errors are joined.
func PurgeAll(ps ...Purger) Purger { return fleet(ps) }

type fleet []Purger

func (f fleet) Purge(ctx context.Context, m Match) (int, error) {
	counts, errs := make([]int, len(f)), make([]error, len(f))
	var wg sync.WaitGroup
	for i, p := range f {
		wg.Go(func() { counts[i], errs[i] = p.Purge(ctx, m) })
	}
	wg.Wait()
	n := 0
	for _, k := range counts {
		n += k
	}
	return n, errors.Join(errs...)
}

// Warm fetches URLs through h, a handler of this cache, so that they are cached. It makes up to eight requests at a
// time and returns the errors of those that failed or gave a status of 400 or more.
func (c *Cache) Warm(ctx context.Context, h http.Handler, urls ...string) error {
	limit := make(chan struct{}, 8)
	errs := make([]error, len(urls))
	var wg sync.WaitGroup
	for i, u := range urls {
		select {
		case limit <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return errors.Join(append(errs, ctx.Err())...)
		}
		wg.Go(func() {
			defer func() { <-limit }()
			errs[i] = warm(ctx, h, u)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func warm(ctx context.Context, h http.Handler, target string) (err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fmt.Errorf("cdn: warm %q: %w", target, err)
	}
	r.Host, r.RequestURI = r.URL.Host, r.URL.RequestURI()
	if r.URL.Scheme == "https" {
		r.TLS = &tls.ConnectionState{}
	}
	r.URL.Scheme, r.URL.Host = "", ""
	w := &discard{h: http.Header{}}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cdn: warm %q: the answer broke off", target)
		}
	}()
	h.ServeHTTP(w, r)
	if w.status >= 400 {
		return fmt.Errorf("cdn: warm %q: status %d", target, w.status)
	}
	return nil
}

type discard struct {
	h      http.Header
	status int
}

func (d *discard) Header() http.Header { return d.h }
func (d *discard) WriteHeader(s int)   { d.status = s }
func (d *discard) Write(p []byte) (int, error) {
	return len(p), nil
}
