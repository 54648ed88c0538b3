package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// Record.Data begins with a frame of our own, so that what belongs to the session and not to the application needs no second column in
// any store:
//
//	version u8, codec u8, first half of the key, user, address, agent, flashes, flags, then T
//
// The key and the user bind the data to its record: a blob copied under another key is refused (and with Options.Keys it can not be forged either).
type meta struct {
	user, address, agent string
	flashes              []string
	remember             bool
	codec                byte // that the data was read with
}

const (
	frameVersion  = 1
	codecJSON     = 1
	codecCompact  = 2
	maxFlashes    = 32
	maxAgentBytes = 200
)

var (
	errFrame   = errors.New("session: record does not parse")
	errSwapped = errors.New("session: record belongs to another key")
)

// encode appends the frame and the data.
func encode[T any](c codec[T], b []byte, k Key, m *meta, data *T) ([]byte, error) {
	b = append(b, frameVersion, c.id())
	b = append(b, k[:16]...)
	b = appendString(appendString(appendString(b, m.user), m.address), m.agent)
	b = binary.AppendUvarint(b, uint64(len(m.flashes)))
	for _, f := range m.flashes {
		b = appendString(b, f)
	}
	flags := byte(0)
	if m.remember {
		flags = 1
	}
	b = append(b, flags)
	b, err := c.append(b, data)
	if err != nil {
		return nil, fmt.Errorf("session: encode data: %w", err)
	}
	return b, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decodeMeta checks that b belongs to the record, and returns the rest: T. The strings share the memory of b, which nobody modifies.
func decodeMeta(b []byte, r *Record) (m meta, rest []byte, err error) {
	if len(b) < 19 || b[0] != frameVersion || b[1] != codecJSON && b[1] != codecCompact {
		return m, nil, errFrame
	}
	if !bytes.Equal(b[2:18], r.Key[:16]) {
		return m, nil, errSwapped
	}
	m.codec = b[1]
	b = b[18:]
	ok := true
	str := func() string {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			ok, b = false, nil
			return ""
		}
		s := b[w : w+int(n)]
		b = b[w+int(n):]
		return unsafe.String(unsafe.SliceData(s), len(s))
	}
	m.user, m.address, m.agent = str(), str(), str()
	n, w := binary.Uvarint(b)
	if w <= 0 || n > maxFlashes {
		return m, nil, errFrame
	}
	b = b[w:]
	for range n {
		m.flashes = append(m.flashes, str())
	}
	if !ok || len(b) == 0 {
		return m, nil, errFrame
	}
	m.remember = b[0]&1 != 0
	if m.user != r.User {
		return m, nil, errSwapped
	}
	return m, b[1:], nil
}

// info is the public part of a record.
func info(r *Record, m *meta) Info {
	return Info{ID: publicID(r.Key), User: r.User, Created: r.Created, Seen: r.Seen, Expires: r.Deadline(), Address: m.address, Agent: m.agent}
}

// publicID names a session in lists; it is a part of the key, from which the cookie cannot be computed.
func publicID(k Key) string { return fmt.Sprintf("%x", k[16:26]) }

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// cookieAge is the Max-Age of a remembered session's cookie.
func cookieAge(r *Record, m *meta, now time.Time) int {
	if !m.remember {
		return 0
	}
	return max(1, int(r.Expires.Sub(now)/time.Second))
}
