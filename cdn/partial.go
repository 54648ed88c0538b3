package cdn

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// An answer that breaks off need not be fetched from its beginning again: what came is kept as a part, nobody is served
// from it, and the next fetch asks for the rest (RFC 9111 section 3.3 and 3.4). Only a strong entity tag proves that
// the rest belongs to the same content (RFC 9110 section 13.1.5).

// resumable is whether what is there of o is worth keeping as a part.
func resumable(o *object) bool {
	return o.status == http.StatusOK && o.length > 0 && o.body.size() > 0 && strongTag(o.etag)
}

func strongTag(etag string) bool { return strings.HasPrefix(etag, `"`) }

// keepPart puts a broken-off object where the next fetch finds it.
func (c *Cache) keepPart(o *object, counted int64) {
	o.body.mu.Lock()
	chunks := o.body.chunks
	o.body.mu.Unlock()
	p := &object{key: o.key, hash: o.hash, host: o.host, status: o.status, header: o.header, body: bodyOf(chunks...),
		length: o.length, etag: o.etag,
		tags: o.tags, vary: o.vary, selectors: o.selectors, freshness: o.freshness}
	c.remove(o)
	if o.purged.Load() {
		c.filling.Add(-counted)
		return
	}
	e := c.index.lock(o.hash, o.key)
	old := e.part
	e.part = p
	c.index.unlock(e, o.hash, time.Now())
	if old != nil {
		old.gone.Store(true)
		c.forget(old)
	}
	c.tags.add(p)
	c.keep(p, counted)
}

// roundTrip sends a fill's request; when a part is known, for the rest of it. An origin that gives neither the rest nor
// the whole is asked again as if nothing were known.
func (x *edge) roundTrip(f *flight, req *http.Request) (*http.Response, error) {
	if f.part == nil {
		return x.transport.RoundTrip(req)
	}
	rest := req.Clone(req.Context())
	have := f.part.body.size()
	rest.Header["Range"] = []string{"bytes=" + itoa(have) + "-"}
	if strongTag(f.part.etag) {
		rest.Header["If-Range"] = []string{f.part.etag}
	}
	res, err := x.transport.RoundTrip(rest)
	part := f.part
	if err == nil && res.StatusCode == http.StatusPartialContent && strongTag(part.etag) &&
		res.Header.Get("Etag") == part.etag &&
		res.Header.Get("Content-Range") == fmt.Sprintf("bytes %d-%d/%d", have, part.length-1, part.length) {
		return res, nil
	}
	f.part = nil
	if part != nil {
		x.c.remove(part)
	}
	if err == nil && res.StatusCode == http.StatusPartialContent || err == nil &&
		res.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		res.Body.Close()
		return x.transport.RoundTrip(req)
	}
	return res, err
}

// continued is the whole object that a part and the answer with its rest make. The fields of the newer answer count.
func (p *object) continued(res *http.Response) *object {
	o := &object{key: p.key, hash: p.hash, host: p.host, status: p.status, header: p.header.Clone(), length: p.length,
		body: &body{}}
	for k, v := range res.Header {
		switch k {
		case "Content-Length", "Content-Range", "Content-Encoding":
		default:
			o.header[k] = v
		}
	}
	if res.Header["Age"] == nil {
		delete(o.header, "Age")
	}
	o.body.chunks = append(o.body.chunks, p.body.chunks...)
	o.body.end = p.body.size()
	return o
}

// begin206 keeps the beginning that an origin gave although it was asked for the whole, and passes the answer on.
func (c *Cache) begin206(f *flight, res *http.Response, o *object, ask http.Header, asked, received time.Time) {
	var first, last, total int64
	if n, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &total); n != 3 ||
		err != nil || first != 0 || last >= total-1 ||
		res.ContentLength != last+1 || total > c.o.MaxObject {
		return
	}
	p := &object{key: o.key, hash: o.hash, host: o.host, status: http.StatusOK, header: res.Header.Clone(),
		length: total, etag: firstOf(res.Header["Etag"])}
	delete(p.header, "Content-Range")
	p.tags = c.tagsOf(p.header)
	if c.judge(p, ask, asked, received) != "" {
		return
	}
	p.header["Content-Length"] = []string{itoa(total)}
	data := make([]byte, 0, last+1)
	res.Body = &tee{ReadCloser: res.Body, data: data, want: last + 1, done: func(b []byte) {
		if f.purged.Load() || c.fetches.tagged(f, p.tags) {
			return
		}
		p.body = bodyOf(b)
		c.keepPart(p, 0)
	}}
}

// tee keeps a copy of what is read, and hands it over when it is whole.
type tee struct {
	io.ReadCloser
	data []byte
	want int64
	done func([]byte)
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if t.done != nil {
		t.data = append(t.data, p[:n]...)
		if int64(len(t.data)) == t.want {
			t.done(t.data)
			t.done = nil
		}
	}
	return n, err
}
