package site

import (
	"encoding/binary"
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
	i := 0
	for ; i < n && (c.pos+int64(i))&7 != 0; i++ { // up to the first whole word
		p[i] = byte(c.word(c.pos+int64(i)) >> (8 * uint((c.pos+int64(i))&7)))
	}
	for ; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], c.word(c.pos+int64(i)))
	}
	for ; i < n; i++ {
		p[i] = byte(c.word(c.pos+int64(i)) >> (8 * uint((c.pos+int64(i))&7)))
	}
	c.pos += int64(n)
	return n, nil
}

// word is the eight bytes around a position.
func (c *content) word(pos int64) uint64 {
	w := c.seed + uint64(pos)>>3*0x9e3779b97f4a7c15
	w ^= w >> 29
	w *= 0xbf58476d1ce4e5b9
	return w ^ w>>32
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
