package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/tierkit/tierkit/internal/wire"
)

// Record.Data begins with a frame of our own, so that what belongs to the session and not to the application needs no
// second column in any store:
//
//	version u8, codec u8, first half of the key, user, address, agent, flashes, flags, [form secret,] then T
//
// The key and the user bind the data to its record: a blob copied under another key is refused (and with
// Options.EncryptionKeys it can not be forged either; the sealed form is in seal.go).
type frame struct {
	meta
	bytes []byte // the whole frame
	rest  []byte // T, encoded
}

type meta struct {
	user, address, agent string
	flashes              []string
	remember             bool
	form                 string // secret of this session's form tokens, "" until one was asked for
	codec                byte   // that the data was read with
}

const (
	frameVersion  = 1
	codecJSON     = 1
	codecCompact  = 2
	maxFlashes    = 32
	maxAgentBytes = 200
	formSecret    = 16 // bytes

	flagRemember = 1
	flagForm     = 2
)

var (
	errFrame   = errors.New("session: record does not parse")
	errSwapped = errors.New("session: record belongs to another key")
)

// encode appends the frame and the data.
func encode[T any](c codec[T], b []byte, k Key, m *meta, data *T) ([]byte, error) {
	b = append(b, frameVersion, c.id())
	b = append(b, k[:16]...)
	b = wire.AppendString(wire.AppendString(wire.AppendString(b, m.user), m.address), m.agent)
	b = binary.AppendUvarint(b, uint64(len(m.flashes)))
	for _, f := range m.flashes {
		b = wire.AppendString(b, f)
	}
	flags := byte(0)
	if m.remember {
		flags |= flagRemember
	}
	if m.form != "" {
		flags |= flagForm
	}
	b = append(append(b, flags), m.form...)
	b, err := c.append(b, data)
	if err != nil {
		return nil, fmt.Errorf("session: encode data: %w", err)
	}
	return b, nil
}

// decodeFrame checks that b belongs to the record. The strings share the memory of b, which nobody modifies.
func decodeFrame(b []byte, r *Record) (f frame, err error) {
	f.bytes = b
	if len(b) < 19 || b[0] != frameVersion || b[1] != codecJSON && b[1] != codecCompact {
		return f, errFrame
	}
	if !bytes.Equal(b[2:18], r.Key[:16]) {
		return f, errSwapped
	}
	f.codec = b[1]
	w := wire.Reader{B: b[18:]}
	str := func() string {
		s := w.Bytes()
		return unsafe.String(unsafe.SliceData(s), len(s))
	}
	f.user, f.address, f.agent = str(), str(), str()
	n := w.Uvarint()
	if n > maxFlashes {
		return f, errFrame
	}
	for range n {
		f.flashes = append(f.flashes, str())
	}
	flags := w.Take(1)
	if w.Bad {
		return f, errFrame
	}
	f.remember = flags[0]&flagRemember != 0
	if flags[0]&flagForm != 0 {
		s := w.Take(formSecret)
		f.form = unsafe.String(unsafe.SliceData(s), len(s))
	}
	if w.Bad {
		return f, errFrame
	}
	if f.user != r.User {
		return f, errSwapped
	}
	f.rest = w.B
	return f, nil
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
