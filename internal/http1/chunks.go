package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// ChunkReader decodes a chunked body (RFC 9112 section 7.1) up to the line of the last chunk; the trailer section stays
// unread. Unlike the reader of net/http/httputil it hands data over before it reads the next chunk's line, which may be
// long in coming.
type ChunkReader struct {
	br    *bufio.Reader
	left  uint64 // bytes of the chunk at hand
	ended bool   // the chunk's data was read, its CRLF was not
}

// NewChunkReader returns a reader of the chunks that br is at.
func NewChunkReader(br *bufio.Reader) *ChunkReader { return &ChunkReader{br: br} }

// Read reads data of the chunk at hand, and returns io.EOF after the last chunk.
func (r *ChunkReader) Read(p []byte) (int, error) {
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
	return n, Unexpected(err)
}

// next reads the line of the next chunk. It returns io.EOF for that of the last one.
func (r *ChunkReader) next() error {
	if r.ended {
		end, err := r.br.Peek(2)
		if err != nil {
			return Unexpected(err)
		}
		if string(end) != "\r\n" {
			return fmt.Errorf("%w: chunk without an end", ErrMalformed)
		}
		r.br.Discard(2)
		r.ended = false
	}
	line, err := r.br.ReadSlice('\n')
	if err != nil {
		return Unexpected(err)
	}
	n, ok := chunkSize(line)
	if !ok {
		return fmt.Errorf("%w: chunk %.40q", ErrMalformed, line)
	}
	if r.left = n; n == 0 {
		return io.EOF
	}
	return nil
}

// chunkSize parses a line such as "1f4;name=value\r\n".
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

// Unexpected returns err, and io.ErrUnexpectedEOF for io.EOF: the message was cut off.
func Unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
