// Package wire takes apart what encoding/binary's Append functions have written: numbers, and bytes with their length
// before them.
package wire

import "encoding/binary"

// Reader reads a record from its front. The first fault sticks: Bad is set, nothing is left, and every later read is of
// zero values, so that a record is read as a whole and judged once. What it returns are parts of B, not copies. The
// zero Reader reads an empty record.
type Reader struct {
	B   []byte // what is left
	Bad bool
}

func (r *Reader) fail() { r.Bad, r.B = true, nil }

// Uvarint reads what binary.AppendUvarint wrote.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.B)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.B = r.B[n:]
	return v
}

// Varint reads what binary.AppendVarint wrote.
func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.B)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.B = r.B[n:]
	return v
}

// Take reads n bytes; nil if there are fewer.
func (r *Reader) Take(n uint64) []byte {
	if n > uint64(len(r.B)) {
		r.fail()
		return nil
	}
	d := r.B[:n]
	r.B = r.B[n:]
	return d
}

// Byte reads one byte.
func (r *Reader) Byte() byte {
	if len(r.B) == 0 {
		r.fail()
		return 0
	}
	c := r.B[0]
	r.B = r.B[1:]
	return c
}

// Uint64 reads eight bytes, the lowest first.
func (r *Reader) Uint64() uint64 {
	if d := r.Take(8); d != nil {
		return binary.LittleEndian.Uint64(d)
	}
	return 0
}

// Bytes reads a length and as many bytes.
func (r *Reader) Bytes() []byte { return r.Take(r.Uvarint()) }

// String is a copy of Bytes.
func (r *Reader) String() string { return string(r.Bytes()) }

// AppendString writes what String reads.
func AppendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
