package cdn

import (
	"bytes"
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/tierkit/tierkit/internal/httpfield"
)

// compressible is whether content of a media type shrinks worth the while.
func compressible(kind string) bool {
	text := strings.HasPrefix(kind, "text/")
	for _, k := range []string{"javascript", "json", "xml", "svg", "wasm", "font/ttf", "font/otf"} {
		text = text || strings.Contains(kind, k)
	}
	return text && !strings.HasPrefix(kind, "text/event-stream")
}

// accepted reads Accept-Encoding (RFC 9110 section 12.5.3).
func accepted(lines []string) func(coding string) bool {
	takes := map[string]bool{}
	star := false
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			coding, q, _ := strings.Cut(item, ";")
			q = strings.ReplaceAll(q, " ", "")
			ok := !(strings.HasPrefix(q, "q=0") && strings.Trim(q[3:], ".0") == "")
			if coding = strings.ToLower(strings.TrimSpace(coding)); coding == "*" {
				star = ok
			} else {
				takes[coding] = ok
			}
		}
	}
	return func(coding string) bool {
		ok, said := takes[coding]
		return ok || star && !said
	}
}

const (
	smallestPacked = 1 << 10
	largestPacked  = 8 << 20
)

// mayPack is whether an object may be compressed on the way out: text that the origin sent plain and did not forbid to
// change. All its answers say so in Vary, also those that are sent before its length is known.
func (c *Cache) mayPack(o *object) bool {
	h := o.header
	return c.o.Compress && o.status == http.StatusOK && o.slices == "" && h["Content-Encoding"] == nil &&
		compressible(firstOf(h["Content-Type"])) && !httpfield.Lists(h["Cache-Control"], "no-transform")
}

// packed is the compressed form of an object for a request that takes it; nil as long as there is none. The first
// request has it made, and gets the plain one.
func (s *service) packed(o *object) *object {
	in := s.r.Header
	if o.length < smallestPacked || o.length > largestPacked || in["Range"] != nil || in["Accept-Encoding"] == nil ||
		!o.body.complete.Load() || !accepted(in["Accept-Encoding"])("gzip") {
		return nil
	}
	c := s.e.c
	if p := o.gz.Load(); p != nil && !p.gone.Load() {
		if p == notWorth {
			return nil
		}
		p.state.Visit()
		return p
	}
	if !o.packing.CompareAndSwap(false, true) {
		return nil
	}
	if !c.begin() {
		return nil
	}
	go func() {
		defer c.work.Done()
		defer o.packing.Store(false)
		p := pack(o)
		o.gz.Store(p)
		if p == notWorth {
			return
		}
		c.keep(p, 0)
		if o.gone.Load() {
			c.remove(p)
		}
	}()
	return nil
}

// notWorth stands for the compressed form of what does not shrink by a tenth.
var notWorth = &object{}

func pack(o *object) *object {
	var plain []byte
	if x := o.body.file; x != nil {
		f, done, err := x.open(o.received)
		if err != nil {
			return notWorth
		}
		defer done()
		plain = make([]byte, x.len)
		if _, err := f.ReadAt(plain, x.at); err != nil {
			return notWorth
		}
	} else {
		plain = bytes.Join(o.body.chunks, nil)
	}
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.DefaultCompression) // the level is valid
	w.Write(plain)
	if w.Close() != nil || out.Len() >= len(plain)*9/10 {
		return notWorth
	}
	data := bytes.Clone(out.Bytes())
	p := &object{key: o.key + "\x00gzip", hash: o.hash, host: o.host, status: o.status, header: o.header.Clone(),
		body: bodyOf(data), length: int64(len(data)), freshness: o.freshness}
	p.header["Content-Encoding"] = []string{"gzip"}
	p.header["Content-Length"] = []string{itoa(p.length)}
	p.header["Accept-Ranges"] = []string{"none"}
	p.header["Vary"] = withVary(p.header["Vary"])
	for _, digest := range []string{"Content-Md5", "Digest", "Repr-Digest", "Content-Digest"} {
		delete(p.header, digest)
	}
	if o.etag != "" { // the same content in another form
		p.etag = "W/" + strings.TrimPrefix(o.etag, "W/")
		p.header["Etag"] = []string{p.etag}
	}
	return p
}

func withVary(lines []string) []string {
	if httpfield.Lists(lines, "Accept-Encoding") {
		return lines
	}
	return append(slices.Clip(lines), "Accept-Encoding")
}
