package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/tierkit/tierkit/internal/httpfield"
)

// Framing says how the length of an answer's body is known (RFC 9112 section 6.3), and what else belongs to the hop.
type Framing struct {
	Length  int64  // of the body in bytes, or Chunked, or UntilClose
	Close   bool   // the connection cannot be used again
	Trailer bool   // a Trailer field was there
	Upgrade string // value of the Upgrade field

	connection []string // values of Connection fields
}

// Lengths of a body that is not counted in bytes.
const (
	Chunked    = -1 // the body comes in chunks
	UntilClose = -2 // the body ends with the connection
)

// Head waits for the whole head of an answer and returns it without its last empty line. The head stays in the buffer:
// the caller discards len(head)+2 bytes when it is done with it.
func (c *Conn) Head() (head []byte, err error) {
	need, seen := 1, 0
	for {
		if need > c.Reader.Size() {
			if need > MaxHead {
				return nil, fmt.Errorf("%w: head larger than %d bytes", ErrMalformed, MaxHead)
			}
			buffered, _ := c.Reader.Peek(c.Reader.Buffered())
			c.Reader = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(buffered)), pausing{c}),
				4*c.Reader.Size())
		}
		if _, err = c.Reader.Peek(need); err != nil {
			return nil, err
		}
		head, _ = c.Reader.Peek(c.Reader.Buffered())
		if i := bytes.Index(head[max(0, seen-3):], []byte("\r\n\r\n")); i >= 0 {
			return head[:max(0, seen-3)+i+2], nil
		}
		seen, need = len(head), len(head)+1
	}
}

// Status parses the status line of a head, such as "HTTP/1.1 200 OK". old says that the answer is HTTP/1.0.
func Status(head []byte) (status int, old bool, err error) {
	if len(head) < 14 || string(head[:7]) != "HTTP/1." || head[7] != '0' && head[7] != '1' || head[8] != ' ' {
		return 0, false, ErrMalformed
	}
	for _, d := range head[9:12] {
		if d < '0' || d > '9' {
			return 0, false, ErrMalformed
		}
		status = status*10 + int(d-'0')
	}
	end := bytes.IndexByte(head, '\n')
	if status < 100 || end < 13 || head[end-1] != '\r' || head[12] != ' ' && end != 13 ||
		bytes.IndexByte(head[:end-1], '\r') >= 0 {
		return 0, false, ErrMalformed
	}
	return status, head[7] == '0', nil
}

// ParseFields adds the header fields of a head to h, without those of the hop, which the framing tells. One string
// holds all values and one slice all lists of one value, so that the cost is three allocations.
func ParseFields(head []byte, old bool, h http.Header) (f Framing, err error) {
	f.Length = UntilClose
	f.Close = old
	s := string(head[bytes.IndexByte(head, '\n')+1:])
	slab := make([]string, 0, strings.Count(s, "\n"))
	isChunked := false
	for len(s) > 0 {
		end := strings.Index(s, "\r\n")
		if end < 0 {
			return f, ErrMalformed
		}
		line := s[:end]
		s = s[end+2:]
		colon := strings.IndexByte(line, ':')
		if colon <= 0 || !httpfield.IsName(line[:colon]) { // also refuses folded lines and blanks before the colon
			return f, ErrMalformed
		}
		k, v := canonical(line[:colon]), unblanked(line[colon+1:])
		if !httpfield.IsValue(v) {
			return f, ErrMalformed
		}
		field := FieldOf(k)
		switch field {
		case Connection:
			if !old && (v == "keep-alive" || v == "close") { // the usual ones name no field
				f.Close = f.Close || v == "close"
				continue
			}
			f.connection = append(f.connection, v)
			if httpfield.Lists(f.connection, "close") {
				f.Close = true
			} else if old && httpfield.Lists(f.connection, "keep-alive") {
				f.Close = false
			}
			continue
		case Upgrade:
			f.Upgrade = v
		case Trailer:
			f.Trailer = true
		case TransferEncoding:
			if isChunked || !strings.EqualFold(v, "chunked") {
				return f, fmt.Errorf("%w: transfer coding %q", ErrMalformed, v)
			}
			isChunked = true
		case ContentLength:
			n, perr := strconv.ParseUint(v, 10, 63)
			if perr != nil || f.Length >= 0 && f.Length != int64(n) {
				return f, fmt.Errorf("%w: content length %q", ErrMalformed, v)
			}
			if f.Length >= 0 {
				continue // the same again
			}
			f.Length = int64(n)
		}
		if field.InResponse() == Drop {
			continue
		}
		if had, ok := h[k]; ok {
			h[k] = append(had, v)
			continue
		}
		slab = append(slab, v)
		h[k] = slab[len(slab)-1 : len(slab) : len(slab)]
	}
	if isChunked {
		// With both, chunked counts, and nothing after this answer is to be trusted (RFC 9112 section 6.3)
		if f.Length >= 0 {
			delete(h, "Content-Length")
			f.Close = true
		}
		f.Close = f.Close || old
		f.Length = Chunked
	}
	for _, v := range f.connection {
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

// unblanked returns v without the blanks around it, as a rule one.
func unblanked(v string) string {
	for len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for len(v) > 0 && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	return v
}

// canonical is textproto.CanonicalMIMEHeaderKey, with the usual names compared instead of converted.
func canonical(k string) string {
	switch k {
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

// Trailers reads the trailer section after the last chunk and calls each for the fields that may be in one.
func (c *Conn) Trailers(each func(k, v string)) error {
	for total := 0; ; {
		line, err := c.Reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if total += len(line); total > MaxHead {
			return ErrMalformed
		}
		s := strings.TrimRight(string(line), "\r\n")
		if s == "" {
			return nil
		}
		k, v, ok := strings.Cut(s, ":")
		if !ok || !httpfield.IsName(k) {
			return ErrMalformed
		}
		k, v = canonical(k), strings.Trim(v, " \t")
		if httpfield.IsTrailer(k) && httpfield.IsValue(v) {
			each(k, v)
		}
	}
}
