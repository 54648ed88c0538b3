package lb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/tierkit/tierkit/internal/httpfield"
)

var errBadResponse = errors.New("lb: malformed answer")

const maxHead = 256 << 10

// framing is how the length of an answer's body is known (RFC 9112 section 6.3).
type framing struct {
	length  int64 // bytes; or one of the two below
	close   bool  // the connection can't be used again
	conn    []string
	trailer bool // a Trailer field was there
	upgrade string
}

const (
	chunked    = -1
	untilClose = -2
)

// head waits for a whole response head and returns it without its last empty line, still in the buffer: taken gives
// the bytes to discard.
func (c *conn) head() (head []byte, err error) {
	need, seen := 1, 0
	for {
		if need > c.br.Size() {
			if need > maxHead {
				return nil, fmt.Errorf("%w: head larger than %d bytes", errBadResponse, maxHead)
			}
			buffered, _ := c.br.Peek(c.br.Buffered())
			c.br = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(buffered)), pausing{c}),
				4*c.br.Size())
		}
		if _, err = c.br.Peek(need); err != nil {
			return nil, err
		}
		head, _ = c.br.Peek(c.br.Buffered())
		if i := bytes.Index(head[max(0, seen-3):], []byte("\r\n\r\n")); i >= 0 {
			return head[:max(0, seen-3)+i+2], nil
		}
		seen, need = len(head), len(head)+1
	}
}

// statusOf reads the status line, such as "HTTP/1.1 200 OK".
func statusOf(head []byte) (status int, old bool, err error) {
	if len(head) < 14 || string(head[:7]) != "HTTP/1." || head[7] != '0' && head[7] != '1' || head[8] != ' ' {
		return 0, false, errBadResponse
	}
	for _, d := range head[9:12] {
		if d < '0' || d > '9' {
			return 0, false, errBadResponse
		}
		status = status*10 + int(d-'0')
	}
	end := bytes.IndexByte(head, '\n')
	if status < 100 || end < 13 || head[end-1] != '\r' || head[12] != ' ' && end != 13 ||
		bytes.IndexByte(head[:end-1], '\r') >= 0 {
		return 0, false, errBadResponse
	}
	return status, head[7] == '0', nil
}

// fields parses the header into h: one string holds all values, one slice all lists of one value. Fields of the hop are
// left out and told by the framing.
func fields(head []byte, old bool, h http.Header) (f framing, err error) {
	f.length = untilClose
	f.close = old
	s := string(head[bytes.IndexByte(head, '\n')+1:])
	slab := make([]string, 0, strings.Count(s, "\n"))
	isChunked := false
	for len(s) > 0 {
		end := strings.Index(s, "\r\n")
		if end < 0 {
			return f, errBadResponse
		}
		line := s[:end]
		s = s[end+2:]
		colon := strings.IndexByte(line, ':')
		if colon <= 0 || !httpfield.IsName(line[:colon]) { // also refuses folded lines and blanks before the colon
			return f, errBadResponse
		}
		k, v := canonical(line[:colon]), unblanked(line[colon+1:])
		if !httpfield.IsValue(v) {
			return f, errBadResponse
		}
		switch k {
		case "Connection":
			if !old && (v == "keep-alive" || v == "close") { // the usual ones name no field
				f.close = f.close || v == "close"
				continue
			}
			f.conn = append(f.conn, v)
			if httpfield.Lists(f.conn, "close") {
				f.close = true
			} else if old && httpfield.Lists(f.conn, "keep-alive") {
				f.close = false
			}
			continue
		case "Upgrade":
			f.upgrade = v
			continue
		case "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Te":
			continue
		case "Trailer":
			f.trailer = true
		case "Transfer-Encoding":
			if isChunked || !strings.EqualFold(v, "chunked") {
				return f, fmt.Errorf("%w: transfer coding %q", errBadResponse, v)
			}
			isChunked = true
			continue
		case "Content-Length":
			n, perr := strconv.ParseUint(v, 10, 63)
			if perr != nil || f.length >= 0 && f.length != int64(n) {
				return f, fmt.Errorf("%w: content length %q", errBadResponse, v)
			}
			if f.length >= 0 {
				continue // the same again
			}
			f.length = int64(n)
		}
		if had, ok := h[k]; ok {
			h[k] = append(had, v)
			continue
		}
		slab = append(slab, v)
		h[k] = slab[len(slab)-1 : len(slab) : len(slab)]
	}
	if isChunked {
		// both: chunked counts, and nothing after this answer is to be trusted (RFC 9112 section 6.3)
		if f.length >= 0 {
			delete(h, "Content-Length")
			f.close = true
		}
		f.close = f.close || old
		f.length = chunked
	}
	for _, v := range f.conn {
		for len(v) > 0 {
			var t string
			t, v, _ = strings.Cut(v, ",")
			switch t = strings.TrimSpace(t); t {
			case "close", "keep-alive", "Keep-Alive": // not fields that were kept
			default:
				if t = textproto.CanonicalMIMEHeaderKey(t); t != "Content-Length" {
					delete(h, t)
				}
			}
		}
	}
	return f, nil
}

// unblanked is v without the blanks around it, which is one as a rule.
func unblanked(v string) string {
	for len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for len(v) > 0 && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	return v
}

func canonical(k string) string {
	switch k { // the usual ones are compared, not converted
	case "Server", "Date", "Content-Type", "Content-Length", "Connection", "Last-Modified", "Accept-Ranges",
		"Cache-Control",
		"Vary", "Set-Cookie", "Location", "Content-Encoding", "Transfer-Encoding", "Keep-Alive", "Etag", "Age",
		"Expires", "Trailer":
		return k
	case "ETag":
		return "Etag"
	}
	return textproto.CanonicalMIMEHeaderKey(k)
}

// trailers reads the trailer section after the last chunk.
func (c *conn) trailers(each func(k, v string)) error {
	for total := 0; ; {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if total += len(line); total > maxHead {
			return errBadResponse
		}
		s := strings.TrimRight(string(line), "\r\n")
		if s == "" {
			return nil
		}
		k, v, ok := strings.Cut(s, ":")
		if !ok || !httpfield.IsName(k) {
			return errBadResponse
		}
		k, v = canonical(k), strings.Trim(v, " \t")
		if httpfield.IsTrailer(k) && httpfield.IsValue(v) {
			each(k, v)
		}
	}
}
