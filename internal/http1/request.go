package http1

import (
	"bytes"
	"net/netip"
	"strconv"

	"github.com/tierkit/tierkit/internal/httpfield"
)

// Verdict says who may forward a request.
type Verdict uint8

const (
	// Plain requests are well formed and common: they are forwarded by copying bytes.
	Plain Verdict = iota
	// Unusual requests are well formed, but need what net/http does.
	Unusual
	// Bad requests are answered with 400 and the end of the connection.
	Bad
)

// Span is a part of the buffer that holds a head.
type Span struct{ From, To int }

// RequestHead is what forwarding needs to know of a request, as places in the buffer that it was read into.
type RequestHead struct {
	Method     Span
	Line       int    // length of the request line with its end
	Kept       []Span // header lines that go on to the backend as they are
	Host       Span
	Length     int64 // of the body
	Sized      bool  // Content-Length was there
	Close      bool  // the client wants the connection closed
	TE         bool  // TE lists trailers
	Idempotent bool  // by its method or by a key
	NoBody     bool  // the answer has no body: HEAD
	Payload    bool  // the method's requests have a length even when it is 0

	// Heeded from trusted proxies only.
	ForwardedFor   []Span
	ForwardedHost  Span
	ForwardedProto Span
}

// pathChar are the characters of a path that net/url writes as they were; escapes are looked at apart.
var pathChar = httpfield.Class("-_.~!$&'()*+,;=:@/[]")

// Parse reads a head that ends with an empty line. It takes a subset of what net/http takes (FuzzRequestHead): one
// space between the parts of the request line, lines that end with CRLF, no folding, values without control characters,
// one Host, one Content-Length of digits, and never Content-Length beside Transfer-Encoding. trusted says that the peer
// may tell where the request came from. The spans refer to b.
func (h *RequestHead) Parse(b []byte, trusted bool) Verdict {
	*h = RequestHead{Kept: h.Kept[:0], ForwardedFor: h.ForwardedFor[:0]}
	v := h.requestLine(b)
	if v == Bad {
		return v
	}
	var seen fieldsSeen
	run := h.Line // lines from here on are kept
	for i := h.Line; ; {
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			if i+2 != len(b) {
				return Bad
			}
			h.keep(run, i)
			break
		}
		f, value, next, ok := scanField(b, i)
		if !ok {
			return Bad
		}
		if f != Other {
			v = max(v, h.field(f, value, b, &seen))
			if f != Host && !f.InRequest().forwards(trusted) {
				h.keep(run, i)
				run = next
			}
		}
		i = next
	}
	if seen.hosts != 1 || seen.coded && h.Sized {
		return Bad
	}
	if seen.coded {
		v = max(v, Unusual)
	}
	return v
}

// fieldsSeen counts fields whose number matters.
type fieldsSeen struct {
	hosts int
	coded bool // Transfer-Encoding was there
}

func (h *RequestHead) keep(from, to int) {
	if from < to {
		h.Kept = append(h.Kept, Span{from, to})
	}
}

// field notes what a field of the table means for the request.
func (h *RequestHead) field(f Field, value Span, b []byte, seen *fieldsSeen) Verdict {
	v := b[value.From:value.To]
	switch f {
	case Host:
		seen.hosts++
		h.Host = value
		for _, c := range v {
			if !httpfield.HostByte[c] {
				return Bad
			}
		}
	case ContentLength:
		n, ok := digits(v)
		if !ok || h.Sized {
			return Bad
		}
		h.Length, h.Sized = n, true
	case TransferEncoding:
		seen.coded = true
	case Connection:
		switch {
		case len(v) == 0, equalFold(v, "keep-alive"):
		case equalFold(v, "close"):
			h.Close = true
		default:
			return Unusual
		}
	case Upgrade, Expect, Trailer:
		return Unusual
	case TE:
		if !equalFold(v, "trailers") {
			return Unusual
		}
		h.TE = true
	case IdempotencyKey, XIdempotencyKey:
		h.Idempotent = true
	case XForwardedFor:
		h.ForwardedFor = append(h.ForwardedFor, value)
	case XForwardedHost:
		if h.ForwardedHost == (Span{}) {
			h.ForwardedHost = value
		}
	case XForwardedProto:
		if h.ForwardedProto == (Span{}) {
			h.ForwardedProto = value
		}
	}
	return Plain
}

// scanField reads the header line that begins at i: a name, a colon, a value, CRLF. value has no blanks around it.
func scanField(b []byte, i int) (f Field, value Span, next int, ok bool) {
	start := i
	for i < len(b) && httpfield.NameByte[b[i]] {
		i++
	}
	if i == start || i >= len(b) || b[i] != ':' {
		return 0, Span{}, 0, false
	}
	name := b[start:i]
	i++
	from := i
	for i < len(b) && httpfield.ValueByte[b[i]] {
		i++
	}
	if i+1 >= len(b) || b[i] != '\r' || b[i+1] != '\n' {
		return 0, Span{}, 0, false
	}
	return FieldOf(name), trimmed(b, from, i), i + 2, true
}

// requestLine reads "GET /path HTTP/1.1". A target that is not a path of plain characters is left to net/http.
func (h *RequestHead) requestLine(b []byte) Verdict {
	i := 0
	for i < len(b) && httpfield.NameByte[b[i]] {
		i++
	}
	if i == 0 || i >= len(b) || b[i] != ' ' {
		return Bad
	}
	h.Method = Span{0, i}
	i++
	v := Plain
	target := i
	if i < len(b) && b[i] != '/' {
		v = Unusual
	}
	query := false
	for ; i < len(b) && b[i] > ' ' && b[i] != 0x7f; i++ {
		switch c := b[i]; {
		case query || pathChar[c]:
		case c == '?':
			query = true
		case c == '%' && i+2 < len(b) && hexDigit(b[i+1]) && hexDigit(b[i+2]):
		default:
			v = Unusual
		}
	}
	if i == target || i+11 > len(b) || b[i] != ' ' {
		return Bad
	}
	switch string(b[i+1 : i+11]) {
	case "HTTP/1.1\r\n":
	case "HTTP/1.0\r\n":
		v = Unusual
	default:
		return Bad
	}
	h.Line = i + 11
	switch string(b[:h.Method.To]) {
	case "GET", "OPTIONS", "TRACE", "DELETE":
		h.Idempotent = true
	case "HEAD":
		h.Idempotent, h.NoBody = true, true
	case "PUT":
		h.Idempotent, h.Payload = true, true
	case "POST", "PATCH":
		h.Payload = true
	case "CONNECT":
		v = Unusual
	}
	return v
}

func trimmed(b []byte, from, to int) Span {
	for from < to && (b[from] == ' ' || b[from] == '\t') {
		from++
	}
	for to > from && (b[to-1] == ' ' || b[to-1] == '\t') {
		to--
	}
	return Span{from, to}
}

func digits(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// EndOfHead finds the empty line that ends a head and returns the length of the head with it, 0 if it has not come yet.
// seen bytes were looked at before. bad says that a line ends without CR: a head of such lines would have no end.
func EndOfHead(b []byte, seen int) (end int, bad bool) {
	if i := bytes.Index(b[max(0, seen-3):], []byte("\r\n\r\n")); i >= 0 {
		return max(0, seen-3) + i + 4, false
	}
	for rest := b[seen:]; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return 0, false
		}
		at := len(b) - len(rest) + i
		if at == 0 || b[at-1] != '\r' {
			return 0, true
		}
		rest = rest[i+1:]
	}
}

// Append writes the request as it goes to the backend; b is the buffer that was parsed and peer the client's address.
func (h *RequestHead) Append(out, b []byte, peer netip.Addr, trusted bool) []byte {
	out = append(out, b[:h.Line]...)
	for _, s := range h.Kept {
		out = append(out, b[s.From:s.To]...)
	}
	out = h.appendForwarded(out, b, peer, trusted)
	if h.TE {
		out = append(out, "Te: trailers\r\n"...)
	}
	if h.Length > 0 || h.Payload {
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, h.Length, 10)
		out = append(out, '\r', '\n')
	}
	return append(out, '\r', '\n')
}

// appendForwarded writes the X-Forwarded fields, as the handler does.
func (h *RequestHead) appendForwarded(out, b []byte, peer netip.Addr, trusted bool) []byte {
	if peer.IsValid() {
		out = append(out, "X-Forwarded-For: "...)
		if trusted {
			for _, s := range h.ForwardedFor {
				out = append(append(out, b[s.From:s.To]...), ", "...)
			}
		}
		out = append(peer.AppendTo(out), '\r', '\n')
	}
	host, proto := h.Host, []byte("http")
	if trusted && h.ForwardedHost.From > 0 {
		host = h.ForwardedHost
	}
	if trusted && h.ForwardedProto.From > 0 {
		proto = b[h.ForwardedProto.From:h.ForwardedProto.To]
	}
	out = append(out, "X-Forwarded-Host: "...)
	out = append(out, b[host.From:host.To]...)
	out = append(out, "\r\nX-Forwarded-Proto: "...)
	out = append(out, proto...)
	return append(out, '\r', '\n')
}
