package lb

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/httpfield"
)

var errBadRequest = errors.New("lb: the request can't be written as HTTP/1.1")

// appendHead writes the request as it goes to the backend: the client's fields without those of the hop (RFC 9110
// section 7.6.1), with where it came from.
func (x *exchange) appendHead(b []byte) ([]byte, error) {
	r := x.r
	if !httpfield.IsName(r.Method) { // a token, as the method is
		return b, errBadRequest
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	at := len(b)
	switch {
	case r.URL.Opaque != "":
		b = append(b, r.URL.Opaque...)
	case r.URL.Path == "*" && r.Method == http.MethodOptions:
		b = append(b, '*')
	case r.URL.Path == "":
		b = append(b, '/')
	default:
		b = append(b, r.URL.EscapedPath()...)
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		b = append(b, '?')
		b = append(b, r.URL.RawQuery...)
	}
	for _, c := range b[at:] {
		if c <= ' ' || c == 0x7f {
			return b, errBadRequest
		}
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	if !httpfield.IsHost(r.Host) {
		return b, errBadRequest
	}
	b = append(b, r.Host...)
	b = append(b, '\r', '\n')
	connection := r.Header["Connection"]
	for k, vs := range r.Header {
		if !http1.ForwardsRequest(k, x.trusted) || len(connection) > 0 && named(connection, k) {
			continue
		}
		for _, v := range vs {
			b = http1.AppendField(b, k, v)
		}
	}
	b = x.appendForwarded(b)
	if len(r.Header["Te"]) > 0 && httpfield.Lists(r.Header["Te"], "trailers") {
		b = append(b, "Te: trailers\r\n"...)
	}
	if x.upgrade != "" {
		b = append(b, "Connection: Upgrade\r\n"...)
		b = http1.AppendField(b, "Upgrade", x.upgrade)
	}
	switch {
	case x.body == bodyNone:
		if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
			b = append(b, "Content-Length: 0\r\n"...)
		}
	case r.ContentLength >= 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.ContentLength, 10)
		b = append(b, '\r', '\n')
	default:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for k := range r.Trailer {
			b = http1.AppendField(b, "Trailer", k)
		}
	}
	if x.expect {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	return append(b, '\r', '\n'), nil
}

func (x *exchange) appendForwarded(b []byte) []byte {
	h := x.r.Header
	peer, err := netip.ParseAddrPort(x.r.RemoteAddr)
	if err == nil {
		b = append(b, "X-Forwarded-For: "...)
		if x.trusted {
			for _, v := range h["X-Forwarded-For"] {
				if !strings.ContainsAny(v, "\r\n\x00") {
					b = append(b, v...)
					b = append(b, ", "...)
				}
			}
		}
		b = peer.Addr().Unmap().AppendTo(b)
		b = append(b, '\r', '\n')
	}
	if v := h["X-Forwarded-Host"]; x.trusted && len(v) > 0 {
		b = http1.AppendField(b, "X-Forwarded-Host", v[0])
	} else {
		b = http1.AppendField(b, "X-Forwarded-Host", x.r.Host)
	}
	switch v := h["X-Forwarded-Proto"]; {
	case x.trusted && len(v) > 0:
		b = http1.AppendField(b, "X-Forwarded-Proto", v[0])
	case x.r.TLS != nil:
		b = append(b, "X-Forwarded-Proto: https\r\n"...)
	default:
		b = append(b, "X-Forwarded-Proto: http\r\n"...)
	}
	return b
}

// named is whether a Connection field lists k.
func named(connection []string, k string) bool {
	for _, v := range connection {
		for len(v) > 0 {
			var t string
			t, v, _ = strings.Cut(v, ",")
			if strings.EqualFold(strings.TrimSpace(t), k) {
				return true
			}
		}
	}
	return false
}

// upgradeOf is the protocol that the client asks to switch to. h2c is not passed on: it would carry requests past every
// rule that stands here (golang/go#80416).
func upgradeOf(r *http.Request) string {
	if len(r.Header["Upgrade"]) == 0 || r.ProtoMajor != 1 || !httpfield.Lists(r.Header["Connection"], "upgrade") {
		return ""
	}
	if up := r.Header["Upgrade"][0]; !strings.EqualFold(up, "h2c") && !strings.HasPrefix(strings.ToLower(up), "h2c,") {
		return up
	}
	return ""
}
