package http1

import (
	"net/http"
	"strings"

	"github.com/tierkit/tierkit/internal/httpfield"
)

// AnswerHead is how a backend's answer is framed, and what else its rewriting has found.
type AnswerHead struct {
	Framing
	Dated bool // a Date field was there
}

// Rewrite appends the head as the client gets it, up to the fields that tell the body's length: the fields of the hop
// are left out, the others copied. head, status and old are those of Conn.Head and Status. bind, if it is not nil,
// changes the fields, at the cost of parsing them. Rewrite refuses what ParseFields refuses.
func (a *AnswerHead) Rewrite(out, head []byte, old bool, bind func(http.Header)) ([]byte, error) {
	a.Framing, a.Dated = Framing{Length: UntilClose, Close: old}, false
	out, i, ok := appendStatusLine(out, head)
	if !ok {
		return out, ErrMalformed
	}
	begun := len(out)
	run, isChunked, parse := i, false, bind != nil
	for i < len(head) {
		f, value, next, ok := scanField(head, i)
		if !ok {
			return out, ErrMalformed
		}
		if f != Other {
			v := head[value.From:value.To]
			switch f {
			case Date:
				a.Dated = true
			case Trailer:
				a.Trailer = true
			case Connection:
				switch {
				case equalFold(v, "close"):
					a.Close = true
				case equalFold(v, "keep-alive"):
					parse = parse || old // several lines may contradict one another
				default:
					parse = true // it may name fields of the hop
				}
			case ContentLength:
				n, ok := digits(v)
				if !ok || a.Length >= 0 && a.Length != n {
					return out, ErrMalformed
				}
				a.Length = n
			case TransferEncoding:
				if isChunked || !equalFold(v, "chunked") {
					return out, ErrMalformed
				}
				isChunked = true
			}
			if f == ContentLength || f.InResponse() == Drop {
				out = append(out, head[run:i]...)
				run = next
			}
		}
		i = next
	}
	out = append(out, head[run:i]...)
	if parse {
		return a.parse(out[:begun], head, old, bind)
	}
	if isChunked {
		a.Close = a.Close || a.Length >= 0 || old
		a.Length = Chunked
	}
	return out, nil
}

// parse is Rewrite for the answers whose fields must be parsed.
func (a *AnswerHead) parse(out, head []byte, old bool, bind func(http.Header)) ([]byte, error) {
	h := http.Header{}
	f, err := ParseFields(head, old, h)
	if err != nil {
		return out, err
	}
	a.Framing = f
	delete(h, "Content-Length")
	if bind != nil {
		bind(h)
	}
	return AppendFields(out, h), nil
}

// appendStatusLine copies the status line as HTTP/1.1 and returns where the fields begin in head.
func appendStatusLine(out, head []byte) (_ []byte, next int, ok bool) {
	i := 9
	for i < len(head) && httpfield.ValueByte[head[i]] {
		i++
	}
	if i+1 >= len(head) || head[i] != '\r' || head[i+1] != '\n' {
		return out, 0, false
	}
	out = append(out, "HTTP/1.1 "...)
	out = append(out, head[9:i]...)
	if i == 12 {
		out = append(out, ' ')
	}
	return append(out, '\r', '\n'), i + 2, true
}

// AppendField writes one field line. It leaves out a field that would end the line early: names and values come from
// net/http or from code before us.
func AppendField(b []byte, k, v string) []byte {
	if strings.IndexByte(v, '\n') >= 0 || strings.IndexByte(v, '\r') >= 0 || strings.IndexByte(v, 0) >= 0 ||
		!httpfield.IsName(k) {
		return b
	}
	b = append(b, k...)
	b = append(b, ':', ' ')
	b = append(b, v...)
	return append(b, '\r', '\n')
}

// AppendFields writes the field lines of h.
func AppendFields(b []byte, h http.Header) []byte {
	for k, vs := range h {
		for _, v := range vs {
			b = AppendField(b, k, v)
		}
	}
	return b
}
