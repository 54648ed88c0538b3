package lb

import (
	"bytes"
	"net/netip"

	"github.com/tierkit/tierkit/internal/clientaddr"
)

// verdict on a request's head.
type verdict uint8

const (
	verdictOurs   verdict = iota // well formed and common: forwarded by copying bytes
	verdictPassed                // well formed, yet out of the ordinary: net/http's
	verdictBad                   // 400 and the end of the connection
)

// span is a part of the buffer that holds the head.
type span struct{ from, to int }

// requestHead is what forwarding needs to know of a request, as places in the buffer it was read into.
type requestHead struct {
	method  span
	line    int    // length of the request line with its end
	kept    []span // header lines that go on to the backend as they are
	host    span
	length  int64 // of the body
	sized   bool  // Content-Length was there
	close   bool  // the client wants the connection closed
	te      bool  // TE lists trailers
	again   bool  // idempotent by its method or a key
	noBody  bool  // of the answer: HEAD
	payload bool  // a method whose requests have a length even when it is 0

	// Of trusted proxies alone.
	forwardedFor   []span
	forwardedHost  span
	forwardedProto span
}

func newClass(more string) (s [256]bool) {
	for c := range 256 {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		s[c] = letter || c < 128 && bytes.IndexByte([]byte(more), byte(c)) >= 0
	}
	return s
}

var (
	tokenChar = newClass("!#$%&'*+-.^_`|~")
	hostChar  = newClass("!$%&'()*+,-.:;=[]_~")
	pathChar  = newClass("-_.~!$&'()*+,;=:@/[]") // what net/url writes as it was; % is looked at
	valueChar = func() (s [256]bool) {
		for c := range 256 {
			s[c] = c >= ' ' && c != 0x7f || c == '\t'
		}
		return s
	}()
)

// parse reads a head that ends with an empty line. It takes a subset of what net/http takes (FuzzFront): one space
// between the parts of the request line, lines that end with CRLF, no folding, values without control characters, one
// Host, one Content-Length of digits, and never Content-Length beside Transfer-Encoding. trusted is whether the peer
// may tell where the request came from.
func (h *requestHead) parse(b []byte, trusted bool) verdict {
	*h = requestHead{kept: h.kept[:0], forwardedFor: h.forwardedFor[:0]}
	v := h.requestLine(b)
	if v == verdictBad {
		return v
	}
	hosts, coded := 0, false
	i, run := h.line, h.line
	for {
		start := i
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			if i+2 != len(b) {
				return verdictBad
			}
			break
		}
		for i < len(b) && tokenChar[b[i]] {
			i++
		}
		if i == start || i >= len(b) || b[i] != ':' {
			return verdictBad
		}
		name := b[start:i]
		i++
		from := i
		for i < len(b) && valueChar[b[i]] {
			i++
		}
		if i+1 >= len(b) || b[i] != '\r' || b[i+1] != '\n' {
			return verdictBad
		}
		value := trimmed(b, from, i)
		i += 2
		drop := false
		switch f := knownField(name); f {
		case fieldNone:
			continue
		case fieldHost:
			hosts++
			h.host = value
			for _, c := range b[value.from:value.to] {
				if !hostChar[c] {
					return verdictBad
				}
			}
		case fieldContentLength:
			n, ok := digits(b[value.from:value.to])
			if !ok || h.sized {
				return verdictBad
			}
			h.length, h.sized, drop = n, true, true
		case fieldTransferEncoding:
			coded, drop = true, true
		case fieldConnection:
			drop = true
			switch c := b[value.from:value.to]; {
			case len(c) == 0, equalFold(c, "keep-alive"):
			case equalFold(c, "close"):
				h.close = true
			default:
				v = verdictPassed
			}
		case fieldUpgrade, fieldExpect, fieldTrailer:
			drop, v = true, verdictPassed
		case fieldTE:
			drop = true
			if equalFold(b[value.from:value.to], "trailers") {
				h.te = true
			} else {
				v = verdictPassed
			}
		case fieldIdempotencyKey:
			h.again = true
		case fieldHop:
			drop = true
		case fieldForwardedFor:
			h.forwardedFor, drop = append(h.forwardedFor, value), true
		case fieldForwardedHost:
			if drop = true; h.forwardedHost == (span{}) {
				h.forwardedHost = value
			}
		case fieldForwardedProto:
			if drop = true; h.forwardedProto == (span{}) {
				h.forwardedProto = value
			}
		case fieldForwardedOther:
			drop = !trusted
		}
		if drop {
			if run < start {
				h.kept = append(h.kept, span{run, start})
			}
			run = i
		}
	}
	if run < i {
		h.kept = append(h.kept, span{run, i})
	}
	if hosts != 1 || coded && h.sized {
		return verdictBad
	}
	if coded {
		v = verdictPassed
	}
	return v
}

// requestLine reads "GET /path HTTP/1.1". A target that is not a path of plain characters is net/http's business.
func (h *requestHead) requestLine(b []byte) verdict {
	i := 0
	for i < len(b) && tokenChar[b[i]] {
		i++
	}
	if i == 0 || i >= len(b) || b[i] != ' ' {
		return verdictBad
	}
	h.method = span{0, i}
	i++
	v := verdictOurs
	target := i
	if i < len(b) && b[i] != '/' {
		v = verdictPassed
	}
	query := false
	for ; i < len(b) && b[i] > ' ' && b[i] != 0x7f; i++ {
		switch c := b[i]; {
		case query || pathChar[c]:
		case c == '?':
			query = true
		case c == '%' && i+2 < len(b) && hexDigit(b[i+1]) && hexDigit(b[i+2]):
		default:
			v = verdictPassed
		}
	}
	if i == target || i+11 > len(b) || b[i] != ' ' {
		return verdictBad
	}
	switch string(b[i+1 : i+11]) {
	case "HTTP/1.1\r\n":
	case "HTTP/1.0\r\n":
		v = verdictPassed
	default:
		return verdictBad
	}
	h.line = i + 11
	switch string(b[:h.method.to]) {
	case "GET", "OPTIONS", "TRACE", "DELETE":
		h.again = true
	case "HEAD":
		h.again, h.noBody = true, true
	case "PUT":
		h.again, h.payload = true, true
	case "POST", "PATCH":
		h.payload = true
	case "CONNECT":
		v = verdictPassed
	}
	return v
}

func trimmed(b []byte, from, to int) span {
	for from < to && (b[from] == ' ' || b[from] == '\t') {
		from++
	}
	for to > from && (b[to-1] == ' ' || b[to-1] == '\t') {
		to--
	}
	return span{from, to}
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

// endOfHead finds the empty line; seen bytes were looked at before. A line that ends without CR is refused here, since
// a head of such lines has no end.
func endOfHead(b []byte, seen int) (end int, bad bool) {
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

// appendForwarded writes what exchange.appendForwarded does.
func (h *requestHead) appendForwarded(out, b []byte, peer netip.Addr, trusted bool) []byte {
	if peer.IsValid() {
		out = append(out, "X-Forwarded-For: "...)
		if trusted {
			for _, s := range h.forwardedFor {
				out = append(append(out, b[s.from:s.to]...), ", "...)
			}
		}
		out = append(peer.AppendTo(out), '\r', '\n')
	}
	host, proto := h.host, []byte("http")
	if trusted && h.forwardedHost.from > 0 {
		host = h.forwardedHost
	}
	if trusted && h.forwardedProto.from > 0 {
		proto = b[h.forwardedProto.from:h.forwardedProto.to]
	}
	out = append(out, "X-Forwarded-Host: "...)
	out = append(out, b[host.from:host.to]...)
	out = append(out, "\r\nX-Forwarded-Proto: "...)
	out = append(out, proto...)
	return append(out, '\r', '\n')
}

// peerOf is the address of the connection's other end.
func peerOf(s string) netip.Addr {
	p, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}

func trustedPeer(o *Options, peer netip.Addr) bool {
	return peer.IsValid() && clientaddr.Within(o.TrustedProxies, peer)
}
