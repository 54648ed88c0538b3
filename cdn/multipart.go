package cdn

import (
	"net/http"
	"slices"
	"strings"
)

// maxRanges is how many parts one answer has at most; a request for more gets the whole, for which it may not pay more
// than once (RFC 9110 section 17.15).
const maxRanges = 16

type byteRange struct{ from, to int64 } // both included

// parseRanges reads a Range of several parts. ok false: to be ignored. Parts that can't be satisfied are left out; none
// left means that the whole can't. Those that together ask for more than there is, as attackers do with overlapping
// ones, are ignored.
func parseRanges(s string, length int64) (parts []byteRange, ok bool) {
	if !hasPrefixFold(s, "bytes=") {
		return nil, false
	}
	sum := int64(0)
	for n, item := range slices.All(strings.Split(s[len("bytes="):], ",")) {
		if n == maxRanges {
			return nil, false
		}
		from, to, ok := parseRange("bytes="+strings.Trim(item, " \t"), length)
		if !ok {
			return nil, false
		}
		if from >= 0 {
			parts = append(parts, byteRange{from, to})
			sum += to - from + 1
		}
	}
	return parts, sum <= length
}

// multipart answers with several parts of a complete object (RFC 9110 section 14.6).
func (s *service) multipart(o *object, parts []byteRange) (abort bool) {
	first, ok := s.begin(o, parts[0].from)
	if !ok {
		return false
	}
	h := s.w.Header()
	kind := ""
	if v := firstOf(h["Content-Type"]); v != "" {
		kind = "Content-Type: " + v + "\r\n"
	}
	boundary := randomID() + randomID()
	total := int64(0)
	heads := make([]string, len(parts))
	for i, p := range parts {
		heads[i] = "\r\n--" + boundary + "\r\n" + kind + "Content-Range: bytes " + itoa(p.from) + "-" + itoa(p.to) +
			"/" + itoa(o.length) + "\r\n\r\n"
		total += int64(len(heads[i])) + p.to - p.from + 1
	}
	end := "\r\n--" + boundary + "--\r\n"
	h["Content-Type"] = []string{"multipart/byteranges; boundary=" + boundary}
	h["Content-Length"] = []string{itoa(total + int64(len(end)))}
	s.status = http.StatusPartialContent
	s.w.WriteHeader(s.status)
	write := func(text string) bool {
		n, err := s.w.Write([]byte(text))
		s.bytes += int64(n)
		return err == nil
	}
	for i, p := range parts {
		if !write(heads[i]) {
			return false
		}
		want := s.bytes + p.to - p.from + 1
		if s.send(o, first, p.from, p.to+1) {
			return true
		}
		if s.bytes != want {
			return false // the client is gone
		}
		first = nil
	}
	write(end)
	return false
}
