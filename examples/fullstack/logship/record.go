package logship

import (
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// record is one committed transaction, or with no statements the beginning of an epoch.
type record struct {
	epoch, seq uint64
	stmts      []statement
}

type statement struct {
	query string
	args  []driver.NamedValue
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errTorn    = errors.New("logship: torn record")
)

const recordHeader = 8 // length and checksum of the payload

// appendRecord encodes: u32 length, u32 CRC-32C, then epoch, seq, statements as varints and length-prefixed bytes.
func appendRecord(dst []byte, r *record) ([]byte, error) {
	at := len(dst)
	dst = append(dst, make([]byte, recordHeader)...)
	dst = binary.AppendUvarint(dst, r.epoch)
	dst = binary.AppendUvarint(dst, r.seq)
	dst = binary.AppendUvarint(dst, uint64(len(r.stmts)))
	for _, s := range r.stmts {
		dst = appendBytes(dst, s.query)
		dst = binary.AppendUvarint(dst, uint64(len(s.args)))
		for _, a := range s.args {
			dst = appendBytes(dst, a.Name)
			switch v := a.Value.(type) {
			case nil:
				dst = append(dst, 'n')
			case int64:
				dst = binary.AppendVarint(append(dst, 'i'), v)
			case float64:
				dst = binary.LittleEndian.AppendUint64(append(dst, 'f'), math.Float64bits(v))
			case bool:
				b := byte(0)
				if v {
					b = 1
				}
				dst = append(dst, 'b', b)
			case string:
				dst = appendBytes(append(dst, 's'), v)
			case []byte:
				dst = appendBytes(append(dst, 'x'), v)
			case time.Time:
				b, err := v.MarshalBinary()
				if err != nil {
					return nil, err
				}
				dst = appendBytes(append(dst, 't'), b)
			default:
				return nil, fmt.Errorf("logship: cannot log an argument of type %T", v)
			}
		}
	}
	body := dst[at+recordHeader:]
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(body)))
	binary.LittleEndian.PutUint32(dst[at+4:], crc32.Checksum(body, castagnoli))
	return dst, nil
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// decodeRecord reads one record and returns its size. errTorn when it is cut short or its checksum is wrong.
func decodeRecord(b []byte) (r record, size int, err error) {
	if len(b) < recordHeader {
		return r, 0, errTorn
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n > len(b)-recordHeader || n < 3 {
		return r, 0, errTorn
	}
	body := b[recordHeader : recordHeader+n]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return r, 0, errTorn
	}
	d := decoder{b: body}
	r.epoch, r.seq = d.uvarint(), d.uvarint()
	for range d.uvarint() {
		s := statement{query: string(d.bytes())}
		for range d.uvarint() {
			a := driver.NamedValue{Ordinal: len(s.args) + 1, Name: string(d.bytes())}
			switch d.byte() {
			case 'n':
			case 'i':
				a.Value = d.varint()
			case 'f':
				a.Value = math.Float64frombits(binary.LittleEndian.Uint64(d.take(8)))
			case 'b':
				a.Value = d.byte() == 1
			case 's':
				a.Value = string(d.bytes())
			case 'x':
				a.Value = append([]byte{}, d.bytes()...)
			case 't':
				var t time.Time
				if err := t.UnmarshalBinary(d.bytes()); err != nil {
					return r, 0, err
				}
				a.Value = t
			default:
				return r, 0, errTorn
			}
			s.args = append(s.args, a)
			if d.bad {
				return r, 0, errTorn
			}
		}
		r.stmts = append(r.stmts, s)
		if d.bad {
			return r, 0, errTorn
		}
	}
	if d.bad {
		return r, 0, errTorn
	}
	return r, recordHeader + n, nil
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad = true
		d.b = nil
		return make([]byte, min(max(n, 0), 8))
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte { return d.take(1)[0] }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	return d.take(int(n))
}
