package site

import (
	"errors"
	"io"
)

// content is a file of a given size whose bytes follow from a seed: any part of it can be made without the rest, so
// ranges of a 69 MB object cost what they are long.
type content struct {
	seed      uint64
	size, pos int64
}

func (c *content) Read(p []byte) (int, error) {
	if c.pos >= c.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), c.size-c.pos))
	for i := 0; i < n; {
		word := c.seed + uint64(c.pos+int64(i))>>3*0x9e3779b97f4a7c15
		word ^= word >> 29
		word *= 0xbf58476d1ce4e5b9
		word ^= word >> 32
		for b := uint(c.pos+int64(i)) & 7; b < 8 && i < n; b++ {
			p[i] = byte(word >> (8 * b))
			i++
		}
	}
	c.pos += int64(n)
	return n, nil
}

func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.pos
	case io.SeekEnd:
		offset += c.size
	}
	if offset < 0 {
		return 0, errors.New("site: seek before the start")
	}
	c.pos = offset
	return offset, nil
}
