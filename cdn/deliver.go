package cdn

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// deliver answers from an object, complete or being filled. abort means that the answer had to be broken off.
func (s *service) deliver(o *object, outcome Outcome, note string) (abort bool) {
	if s.in == nil && !o.body.complete.Load() {
		var ok bool
		// it has outgrown what is kept, and its beginning is let go: this one asks for itself
		if s.in, ok = o.body.reader(0); !ok {
			s.e.bypass(s.w, s.r, "fwd=bypass; detail=too-large")
			return false
		}
	}
	if s.in != nil {
		defer s.in.close()
	}
	c, h := s.e.c, s.w.Header()
	packable := c.mayPack(o)
	if packable {
		if p := s.packed(o); p != nil {
			o, packable = p, false
		}
	}
	for k, v := range o.header {
		h[k] = v
	}
	if packable {
		h["Vary"] = withVary(o.header["Vary"])
	}
	switch outcome {
	case Hit:
		shown := c.showHit(o, s.now)
		h["Age"], h["Cache-Status"] = shown.age, shown.status
	case Stale:
		h["Age"] = []string{itoa(int64(o.ageAt(s.now) / time.Second))}
		left := int64((o.life - o.ageAt(s.now)) / time.Second)
		stale := c.o.Name + "; hit; ttl=" + itoa(left)
		if note != "" {
			stale += "; " + note
		}
		h["Cache-Status"] = append(slices.Clone(o.header["Cache-Status"]), stale)
	default:
		if outcome == Revalidated {
			h["Age"] = []string{itoa(int64(o.ageAt(s.now) / time.Second))}
		}
		h["Cache-Status"] = append(slices.Clone(o.header["Cache-Status"]), c.o.Name+"; "+note)
	}
	r := s.r
	if o.status == http.StatusOK {
		if in := r.Header; len(in["If-None-Match"]) > 0 || len(in["If-Modified-Since"]) > 0 {
			if unchanged(in, o.header, o.etag) {
				delete(h, "Content-Length")
				s.status = http.StatusNotModified
				s.w.WriteHeader(s.status)
				return false
			}
		}
		if rg := r.Header["Range"]; len(rg) == 1 && r.Method == http.MethodGet && o.length >= 0 &&
			ifRange(r.Header, o.header, o.etag) {
			from, to, ok := parseRange(rg[0], o.length)
			if !ok && o.body.complete.Load() && strings.IndexByte(rg[0], ',') >= 0 {
				var parts []byteRange
				if parts, ok = parseRanges(rg[0], o.length); len(parts) > 1 && ok {
					return s.multipart(o, parts)
				}
				if from = -1; len(parts) == 1 {
					from, to = parts[0].from, parts[0].to
				}
			}
			switch {
			case ok && from < 0:
				h["Content-Range"] = []string{"bytes */" + itoa(o.length)}
				delete(h, "Content-Length")
				delete(h, "Content-Type")
				delete(h, "Etag")
				s.status = http.StatusRequestedRangeNotSatisfiable
				h["Content-Length"] = []string{"0"}
				h["Content-Type"] = nil
				s.w.WriteHeader(s.status)
				return false
			case ok:
				first, ok := s.begin(o, from)
				if !ok {
					return false
				}
				h["Content-Range"] = []string{"bytes " + itoa(from) + "-" + itoa(to) + "/" + itoa(o.length)}
				h["Content-Length"] = []string{itoa(to - from + 1)}
				s.status = http.StatusPartialContent
				s.w.WriteHeader(s.status)
				return s.send(o, first, from, to+1)
			}
		}
	}
	bodiless := r.Method == http.MethodHead || o.status == http.StatusNoContent
	var first *object
	if !bodiless {
		var ok bool
		if first, ok = s.begin(o, 0); !ok {
			return false
		}
	}
	s.status = o.status
	s.w.WriteHeader(o.status)
	if bodiless {
		return false
	}
	return s.send(o, first, 0, -1)
}

// begin gets the first slice of an object that is kept in slices, before anything is said: when that fails the origin
// answers for itself, and ok is false.
func (s *service) begin(o *object, from int64) (first *object, ok bool) {
	if o.slices == "" {
		return nil, true
	}
	first, err := s.slice(o, from/s.e.c.o.SliceBytes)
	if err == nil {
		return first, true
	}
	if errors.Is(err, errChanged) {
		s.e.c.remove(o)
	}
	h := s.w.Header()
	for k := range o.header {
		delete(h, k)
	}
	for _, k := range []string{"Age", "Cache-Status", "Content-Range", "Content-Length"} {
		delete(h, k)
	}
	s.e.bypass(s.w, s.r, "fwd=bypass; detail=slice-failed")
	return nil, false
}

// send writes the body from an offset up to another (-1: the end). first is what begin returned.
func (s *service) send(o, first *object, from, to int64) (abort bool) {
	b := o.body
	if o.slices != "" || b.file != nil {
		if to < 0 {
			to = o.length
		}
		if o.slices != "" {
			return s.sendSlices(o, first, from, to)
		}
		_, _, abort = s.sendPart(b, from, to)
		return abort
	}
	if b.complete.Load() && from == 0 && to < 0 && len(b.chunks) <= 1 {
		if len(b.chunks) == 1 {
			n, _ := s.w.Write(b.chunks[0])
			s.bytes = int64(n)
		}
		return false
	}
	in := s.in
	if in == nil {
		in = &bodyReader{b: b}
	}
	in.seek(from)
	ctx := s.r.Context()
	for to < 0 || in.at < to {
		at := in.at
		p, err := in.next(ctx, s.flush)
		if err == io.EOF && to < 0 {
			return false
		}
		if err != nil {
			return true
		}
		if to >= 0 && at+int64(len(p)) > to {
			p = p[:to-at]
		}
		n, err := s.w.Write(p)
		s.bytes += int64(n)
		if err != nil {
			return false // the client is gone
		}
	}
	return false
}

// flush sends what there is before waiting for more.
func (s *service) flush() {
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
}

// pass gives an answer that is not stored to the client that asked for it.
func (s *service) pass(f *flight, why string) (Outcome, bool) {
	res := f.own
	defer res.Body.Close()
	h := s.w.Header()
	note := "fwd=" + why + "; fwd-status=" + itoa(int64(res.StatusCode)) + "; detail=" + f.why
	if res.StatusCode == http.StatusOK && len(s.r.Header["Range"]) > 0 {
		res.Body.Close()
		s.e.bypass(s.w, s.r, note) // the fill asked for all of it; a part is wanted
		return Bypass, false
	}
	for k, v := range res.Header {
		h[k] = v
	}
	h["Cache-Status"] = append(slices.Clone(res.Header["Cache-Status"]), s.e.c.o.Name+"; "+note)
	if res.StatusCode == http.StatusOK && unchanged(s.r.Header, res.Header, firstOf(res.Header["Etag"])) {
		delete(h, "Content-Length")
		s.status = http.StatusNotModified
		s.w.WriteHeader(s.status)
		return Miss, false
	}
	for k := range res.Trailer {
		h["Trailer"] = append(h["Trailer"], k)
	}
	s.status = res.StatusCode
	s.w.WriteHeader(res.StatusCode)
	// the client's leaving ends the fetch: nobody else wants it
	stop := context.AfterFunc(s.r.Context(), func() { res.Body.Close() })
	defer stop()
	buf := make([]byte, 32<<10)
	for {
		n, err := res.Body.Read(buf)
		if n > 0 {
			s.bytes += int64(n)
			s.e.c.count.in.Add(uint64(n))
			s.host.in.Add(uint64(n))
			if _, werr := s.w.Write(buf[:n]); werr != nil {
				return Miss, false
			}
			if res.ContentLength < 0 {
				s.flush()
			}
		}
		if err == io.EOF {
			for k, v := range res.Trailer {
				h[k] = v
			}
			return Miss, false
		}
		if err != nil {
			return Miss, true
		}
	}
}

// unchanged evaluates If-None-Match, else If-Modified-Since (RFC 9110 section 13.2.2).
func unchanged(in, h http.Header, etag string) bool {
	if lines := in["If-None-Match"]; len(lines) > 0 {
		return etagListed(lines, etag)
	}
	since, ok := parseDate(in["If-Modified-Since"])
	if !ok {
		return false
	}
	at, ok := parseDate(h["Last-Modified"])
	if !ok {
		at, ok = parseDate(h["Date"])
	}
	return ok && !at.After(since)
}

// etagListed compares weakly (RFC 9110 section 8.8.3.2).
func etagListed(lines []string, etag string) bool {
	bare := strings.TrimPrefix(etag, "W/")
	for _, line := range lines {
		for line != "" {
			var item string
			item, line = nextItem(line)
			if item = strings.Trim(item, " \t"); item == "*" || etag != "" && strings.TrimPrefix(item, "W/") == bare {
				return true
			}
		}
	}
	return false
}

// ifRange is whether a Range may be applied: its If-Range, if any, names this very representation (RFC 9110 section
// 13.1.5): strongly equal tags, or the exact date.
func ifRange(in, h http.Header, etag string) bool {
	lines := in["If-Range"]
	if len(lines) == 0 {
		return true
	}
	if len(lines) > 1 {
		return false
	}
	if v := lines[0]; strings.HasPrefix(v, `"`) || strings.HasPrefix(v, "W/") {
		return v == etag && !strings.HasPrefix(v, "W/")
	}
	want, ok1 := parseDate(lines)
	have, ok2 := parseDate(h["Last-Modified"])
	return ok1 && ok2 && want.Equal(have)
}

// parseRange reads a Range of one part (RFC 9110 section 14.1.2). ok false: to be ignored, which is always allowed;
// from -1: not satisfiable.
func parseRange(s string, length int64) (from, to int64, ok bool) {
	if !hasPrefixFold(s, "bytes=") {
		return 0, 0, false
	}
	s = strings.Trim(s[len("bytes="):], " \t")
	first, last, dash := strings.Cut(s, "-")
	if !dash || strings.IndexByte(s, ',') >= 0 {
		return 0, 0, false
	}
	if first == "" { // the last n bytes
		n, err := parseOffset(last)
		if err != nil {
			return 0, 0, false
		}
		if n == 0 || length == 0 {
			return -1, 0, true
		}
		return max(0, length-n), length - 1, true
	}
	from, err := parseOffset(first)
	if err != nil {
		return 0, 0, false
	}
	to = length - 1
	if last != "" {
		if to, err = parseOffset(last); err != nil || to < from {
			return 0, 0, false
		}
	}
	if from >= length {
		return -1, 0, true
	}
	return from, min(to, length-1), true
}

func parseOffset(s string) (int64, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, strconv.ErrSyntax
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil && len(s) > 0 && strings.Trim(s, "0123456789") == "" {
		return 1<<63 - 1, nil // larger than anything
	}
	return n, err
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
