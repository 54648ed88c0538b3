package queue

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/tierkit/tierkit/internal/wire"
)

// openRecord and closeRecord frame one record in a batch's buffer; the checksum is filled in by sealRecords.
func openRecord(buf []byte, k kind) []byte {
	return append(buf, 0, 0, 0, 0, 0, 0, 0, 0, byte(k))
}

func closeRecord(buf []byte, start int) []byte {
	binary.LittleEndian.PutUint32(buf[start:], uint32(len(buf)-start-recordHeader))
	return buf
}

// appendMessage writes a message: times in Unix nanoseconds (0: not set), strings with their length, the body last.
func appendMessage(b []byte, m *Message, published int64) []byte {
	b = append(b, m.Priority)
	b = binary.AppendUvarint(b, uint64(published))
	b = binary.AppendUvarint(b, uint64(unixNano(m.NotBefore)))
	b = binary.AppendUvarint(b, uint64(m.TTL))
	b = wire.AppendString(b, m.Topic)
	b = wire.AppendString(b, m.Kind)
	b = wire.AppendString(b, m.ID)
	b = wire.AppendString(b, m.Key)
	b = binary.AppendUvarint(b, uint64(len(m.Header)))
	for k, v := range m.Header {
		b = wire.AppendString(wire.AppendString(b, k), v)
	}
	return append(b, m.Body...)
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	if t.Unix() >= math.MaxInt64/int64(time.Second) { // the year 2262, from which on nanoseconds do not fit
		return math.MaxInt64
	}
	return max(0, t.UnixNano())
}

// after is a time d later, or the end of all times.
func after(now int64, d time.Duration) int64 {
	if int64(d) > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + int64(d)
}

// messageBound is never less than the encoded size.
func messageBound(m *Message) int {
	n := 96 + len(m.Topic) + len(m.Kind) + len(m.ID) + len(m.Key) + len(m.Body)
	for k, v := range m.Header {
		n += 20 + len(k) + len(v)
	}
	return n
}

// reader takes a payload apart.
type reader struct{ wire.Reader }

func reads(payload []byte) reader { return reader{wire.Reader{B: payload}} }

// message reads what appendMessage wrote. The body is a part of the payload, not a copy.
func (r *reader) message() (m Message, published int64) {
	m.Priority = r.Byte()
	published = int64(r.Uvarint())
	if nb := r.Uvarint(); nb != 0 {
		m.NotBefore = time.Unix(0, int64(nb))
	}
	m.TTL = time.Duration(r.Uvarint())
	m.Topic = r.String()
	m.Kind = r.String()
	m.ID = r.String()
	m.Key = r.String()
	if n := r.Uvarint(); n > 0 && n <= uint64(len(r.B)) {
		m.Header = make(map[string]string, min(n, 64))
		for range n {
			k := r.String()
			m.Header[k] = r.String()
		}
	} else if n > 0 {
		r.Bad = true
	}
	if m.Priority > 9 {
		r.Bad = true
	}
	m.Body = r.B
	return m, published
}

// routing reads only what recovery needs to queue a message, without allocating.
type routing struct {
	priority  uint8
	published int64
	notBefore int64
	topic     []byte
	id        []byte
	key       []byte
}

func (r *reader) routing() (x routing) {
	x.priority = r.Byte()
	x.published = int64(r.Uvarint())
	x.notBefore = int64(r.Uvarint())
	r.Uvarint()
	x.topic = r.Bytes()
	r.Bytes()
	x.id = r.Bytes()
	x.key = r.Bytes()
	if x.priority > 9 {
		r.Bad = true
	}
	return x
}

// groupRecord is a consumer group as the log knows it.
type groupRecord struct {
	id          uint32
	topic, name string
	since       uint64 // messages from this number on belong to it
}

func appendGroups(b []byte, gs []groupRecord) []byte {
	b = binary.AppendUvarint(b, uint64(len(gs)))
	for _, g := range gs {
		b = binary.AppendUvarint(b, uint64(g.id))
		b = binary.AppendUvarint(b, g.since)
		b = wire.AppendString(wire.AppendString(b, g.topic), g.name)
	}
	return b
}

func (r *reader) groups() []groupRecord {
	var gs []groupRecord
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		gs = append(gs, groupRecord{id: uint32(r.Uvarint()), since: r.Uvarint(), topic: r.String(), name: r.String()})
	}
	return gs
}

// copied is one group's view of a message that is copied forward.
type copied struct {
	group    uint32
	attempts uint16
	redriven bool
	until    int64 // delayed until, 0: not
	dead     bool
	diedAt   int64
	reason   string
}

func appendCopied(b []byte, seq uint64, orphan bool, cs []copied) []byte {
	b = binary.AppendUvarint(b, seq)
	b = append(b, boolByte(orphan))
	b = binary.AppendUvarint(b, uint64(len(cs)))
	for _, c := range cs {
		b = binary.AppendUvarint(b, uint64(c.group))
		b = binary.AppendUvarint(b, uint64(c.attempts))
		b = binary.AppendUvarint(b, uint64(c.until))
		b = append(b, boolByte(c.dead)|boolByte(c.redriven)<<1)
		if c.dead {
			b = wire.AppendString(binary.AppendUvarint(b, uint64(c.diedAt)), c.reason)
		}
	}
	return b
}

func (r *reader) copied() (seq uint64, orphan bool, cs []copied) {
	seq, orphan = r.Uvarint(), r.Byte() == 1
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		c := copied{group: uint32(r.Uvarint()), attempts: uint16(r.Uvarint()), until: int64(r.Uvarint())}
		flags := r.Byte()
		c.dead, c.redriven = flags&1 != 0, flags&2 != 0
		if c.dead {
			c.diedAt, c.reason = int64(r.Uvarint()), r.String()
		}
		cs = append(cs, c)
	}
	return seq, orphan, cs
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
