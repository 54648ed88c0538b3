package sqlite

import (
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/tierkit/tierkit/internal/wire"
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
	errTorn    = errors.New("sqlite: torn record")
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
				return nil, fmt.Errorf("sqlite: cannot log an argument of type %T", v)
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
	d := wire.Reader{B: body}
	r.epoch, r.seq = d.Uvarint(), d.Uvarint()
	for range d.Uvarint() {
		s := statement{query: d.String()}
		for range d.Uvarint() {
			a := driver.NamedValue{Ordinal: len(s.args) + 1, Name: d.String()}
			switch d.Byte() {
			case 'n':
			case 'i':
				a.Value = d.Varint()
			case 'f':
				a.Value = math.Float64frombits(d.Uint64())
			case 'b':
				a.Value = d.Byte() == 1
			case 's':
				a.Value = d.String()
			case 'x':
				a.Value = append([]byte{}, d.Bytes()...)
			case 't':
				var t time.Time
				if err := t.UnmarshalBinary(d.Bytes()); err != nil {
					return r, 0, err
				}
				a.Value = t
			default:
				return r, 0, errTorn
			}
			s.args = append(s.args, a)
			if d.Bad {
				return r, 0, errTorn
			}
		}
		r.stmts = append(r.stmts, s)
		if d.Bad {
			return r, 0, errTorn
		}
	}
	if d.Bad {
		return r, 0, errTorn
	}
	return r, recordHeader + n, nil
}
