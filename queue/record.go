package queue

import (
	"encoding/binary"
	"time"
)

// openRecord and closeRecord frame one record in a batch's buffer; the checksum is filled in by sealRecords.
func openRecord(buf []byte, k kind) []byte {
	return append(buf, 0, 0, 0, 0, 0, 0, 0, 0, byte(k))
}

func closeRecord(buf []byte, start int) []byte {
	binary.LittleEndian.PutUint32(buf[start:], uint32(len(buf)-start-recordHeader))
	return buf
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendMessage writes a message: times in Unix nanoseconds (0: not set), strings with their length, the body last.
func appendMessage(b []byte, m *Message, published int64) []byte {
	b = append(b, m.Priority)
	b = binary.AppendUvarint(b, uint64(published))
	b = binary.AppendUvarint(b, uint64(unixNano(m.NotBefore)))
	b = binary.AppendUvarint(b, uint64(m.TTL))
	b = appendString(b, m.Topic)
	b = appendString(b, m.Kind)
	b = appendString(b, m.ID)
	b = appendString(b, m.Key)
	b = binary.AppendUvarint(b, uint64(len(m.Header)))
	for k, v := range m.Header {
		b = appendString(appendString(b, k), v)
	}
	return append(b, m.Body...)
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(0, t.UnixNano())
}

// messageBound is never less than the encoded size.
func messageBound(m *Message) int {
	n := 96 + len(m.Topic) + len(m.Kind) + len(m.ID) + len(m.Key) + len(m.Body)
	for k, v := range m.Header {
		n += 20 + len(k) + len(v)
	}
	return n
}

// reader takes a payload apart; the first error sticks.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	s := r.b[:n]
	r.b = r.b[n:]
	return s
}

func (r *reader) string() string { return string(r.bytes()) }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// message reads what appendMessage wrote. The body is a part of the payload, not a copy.
func (r *reader) message() (m Message, published int64) {
	m.Priority = r.byte()
	published = int64(r.uvarint())
	if nb := r.uvarint(); nb != 0 {
		m.NotBefore = time.Unix(0, int64(nb))
	}
	m.TTL = time.Duration(r.uvarint())
	m.Topic = r.string()
	m.Kind = r.string()
	m.ID = r.string()
	m.Key = r.string()
	if n := r.uvarint(); n > 0 && n <= uint64(len(r.b)) {
		m.Header = make(map[string]string, min(n, 64))
		for range n {
			k := r.string()
			m.Header[k] = r.string()
		}
	} else if n > 0 {
		r.bad = true
	}
	if m.Priority > 9 {
		r.bad = true
	}
	m.Body = r.b
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
	x.priority = r.byte()
	x.published = int64(r.uvarint())
	x.notBefore = int64(r.uvarint())
	r.uvarint()
	x.topic = r.bytes()
	r.bytes()
	x.id = r.bytes()
	x.key = r.bytes()
	if x.priority > 9 {
		r.bad = true
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
		b = appendString(appendString(b, g.topic), g.name)
	}
	return b
}

func (r *reader) groups() []groupRecord {
	var gs []groupRecord
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		gs = append(gs, groupRecord{id: uint32(r.uvarint()), since: r.uvarint(), topic: r.string(), name: r.string()})
	}
	return gs
}

// copied is one group's view of a message that is copied forward.
type copied struct {
	group    uint32
	attempts uint16
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
		b = append(b, boolByte(c.dead))
		if c.dead {
			b = appendString(binary.AppendUvarint(b, uint64(c.diedAt)), c.reason)
		}
	}
	return b
}

func (r *reader) copied() (seq uint64, orphan bool, cs []copied) {
	seq, orphan = r.uvarint(), r.byte() == 1
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		c := copied{group: uint32(r.uvarint()), attempts: uint16(r.uvarint()), until: int64(r.uvarint()), dead: r.byte() == 1}
		if c.dead {
			c.diedAt, c.reason = int64(r.uvarint()), r.string()
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
