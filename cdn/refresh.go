package cdn

import (
	"net/http"
	"time"
)

// sized replaces an object whose length was not known by one that has it.
func (c *Cache) sized(o *object) *object {
	n := &object{key: o.key, hash: o.hash, host: o.host, status: o.status, header: o.header.Clone(), body: o.body,
		length: o.body.size(), etag: o.etag,
		tags: o.tags, vary: o.vary, selectors: o.selectors, freshness: o.freshness}
	n.header["Content-Length"] = []string{itoa(n.length)}
	if _, ok := o.header["Content-Type"]; ok && n.header["Content-Type"] == nil {
		n.header["Content-Type"] = nil
	}
	e := c.index.lock(o.hash, o.key)
	if !o.gone.Load() {
		n.soft.Store(o.soft.Load())
		o.next.Store(n)
		n.wanted.Store(o.wanted.Load()) // a hit sets wanted, then looks for next: none is lost
		c.store(e, n)
	} else {
		n.gone.Store(true)
	}
	c.index.unlock(e, o.hash, time.Now())
	return n
}

// refreshed is old with what a 304 says (RFC 9111 section 3.2 and 4.3.4). ok is whether the result may be stored.
func (c *Cache) refreshed(old *object, update http.Header, ask http.Header, asked, received time.Time) (n *object,
	ok bool) {
	n = &object{key: old.key, hash: old.hash, host: old.host, status: old.status, header: old.header.Clone(),
		body: old.body, length: old.length, slices: old.slices, etag: old.etag, tags: old.tags}
	if tags := c.tagsOf(update); tags != nil {
		n.tags = tags
	}
	if update["Age"] == nil {
		delete(n.header, "Age")
	}
	for k, v := range update {
		switch k {
		case "Content-Length", "Content-Encoding", "Content-Range", "Content-Type", "Cache-Status", "Set-Cookie",
			"Trailer":
		default:
			n.header[k] = v
		}
	}
	if update["Content-Type"] != nil && update["Content-Type"][0] != "" {
		n.header["Content-Type"] = update["Content-Type"]
	}
	n.etag = firstOf(n.header["Etag"])
	why := c.judge(n, ask, asked, received)
	return n, why == ""
}
