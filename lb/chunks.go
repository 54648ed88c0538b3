package lb

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// chunkReader decodes chunks (RFC 9112 section 7.1) up to the last one's line; the trailer section stays unread. Unlike
// net/http/httputil's it hands data over before it looks at the next chunk, which may be long in coming.
type chunkReader struct {
	br    *bufio.Reader
	left  uint64 // of the chunk at hand
	ended bool   // of a chunk's data: its CRLF is due
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	if uint64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.br.Read(p)
	if r.left -= uint64(n); r.left == 0 {
		r.ended = true
	}
	return n, unexpected(err)
}

// next reads a chunk's line; io.EOF is the last chunk's.
func (r *chunkReader) next() error {
	if r.ended {
		end, err := r.br.Peek(2)
		if err != nil {
			return unexpected(err)
		}
		if string(end) != "\r\n" {
			return fmt.Errorf("%w: chunk without an end", errBadResponse)
		}
		r.br.Discard(2)
		r.ended = false
	}
	line, err := r.br.ReadSlice('\n')
	if err != nil {
		return unexpected(err)
	}
	n, ok := chunkSize(line)
	if !ok {
		return fmt.Errorf("%w: chunk %.40q", errBadResponse, line)
	}
	if r.left = n; n == 0 {
		return io.EOF
	}
	return nil
}

// chunkSize reads a line such as "1f4;name=value\r\n".
func chunkSize(line []byte) (n uint64, ok bool) {
	line, ok = bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || bytes.IndexByte(line, '\r') >= 0 {
		return 0, false
	}
	size, _, _ := bytes.Cut(line, []byte(";"))
	size = bytes.TrimRight(size, " \t")
	if len(size) == 0 || len(size) > 15 {
		return 0, false
	}
	for _, c := range size {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		n = n<<4 | uint64(c)
	}
	return n, true
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
