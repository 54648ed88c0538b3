package cdn

import (
	"net/http"
	"time"
)

// capture keeps the answer to a POST that says that it is also what a GET of the same URL would give: a
// Content-Location with that URL, and explicit freshness (RFC 9110 section 9.3.3).
type capture struct {
	http.ResponseWriter
	o     *object // nil: not kept
	f     *flight
	data  []byte
	limit int64
}

// Unwrap lets http.ResponseController reach the writer below.
func (w *capture) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush is passed on.
func (w *capture) Flush() { http.NewResponseController(w.ResponseWriter).Flush() }

func (w *capture) Write(p []byte) (int, error) {
	if w.o != nil {
		if int64(len(w.data)+len(p)) > w.limit {
			w.o, w.data = nil, nil
		} else {
			w.data = append(w.data, p...)
		}
	}
	return w.ResponseWriter.Write(p)
}

// begin decides by the header whether the answer is kept.
func (w *capture) begin(c *Cache, r *http.Request, h http.Header, asked time.Time) {
	at := h["Content-Location"]
	if len(at) != 1 {
		return
	}
	base := *r.URL
	base.Host = r.Host
	u, err := base.Parse(at[0])
	if err != nil {
		return
	}
	get := r.WithContext(r.Context())
	get.URL = u
	key := string(c.o.Key(nil, r))
	if u.Host != "" && u.Host != r.Host || string(c.o.Key(nil, get)) != key {
		return
	}
	header := h.Clone()
	stripHop(header)
	delete(header, "Cache-Status")
	o := &object{key: key, hash: c.hashString(key), host: c.hosts.of(r.Host), status: http.StatusOK, header: header,
		etag: firstOf(header["Etag"])}
	o.tags = c.tagsOf(o.header)
	if c.judge(o, r.Header, asked, time.Now()) != "" || o.life <= 0 || r.Header["Authorization"] != nil {
		return
	}
	explicit := parseDirectives(header["Cache-Control"])
	if explicit.maxAge < 0 && explicit.sMaxAge < 0 && header["Expires"] == nil {
		return
	}
	w.o, w.limit = o, c.o.MaxObject
	w.f = &flight{key: key, hash: o.hash}
	c.fetches.add(w.f) // so that a purge meanwhile wins
}

// end stores what was kept when it is whole.
func (w *capture) end(c *Cache) {
	if w.f == nil {
		return
	}
	defer c.fetches.remove(w.f)
	o := w.o
	if o == nil || w.f.purged.Load() || c.fetches.tagged(w.f, o.tags) {
		return
	}
	if cl := o.header["Content-Length"]; len(cl) == 1 && cl[0] != itoa(int64(len(w.data))) {
		return
	}
	o.body, o.length = bodyOf(w.data), int64(len(w.data))
	o.header["Content-Length"] = []string{itoa(o.length)}
	e := c.index.lock(o.hash, o.key)
	c.store(e, o)
	c.index.unlock(e, o.hash, time.Now())
	c.keep(o, 0)
}
