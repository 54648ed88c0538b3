package queue

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// engine is the embedded [Driver]: a log in one directory and an index of it in memory.
//
// Three goroutines write: commits (batches), prepares (segments ahead of their use), cleans (frees segments). Locks:
// state before mu; neither is held during I/O.
type engine struct {
	dir   string
	o     Options
	files diskfile.FS
	lock  *os.File
	start time.Time // for monotonic deadlines

	// mu guards the way into the log.
	mu       sync.Mutex
	filled   sync.Cond // the current batch has records, or closing
	room     sync.Cond // the current batch, the log or the limits may have room
	cur      *batch
	inflight *batch
	nextSeq  uint64 // of the next record
	durable  uint64 // every record below is on disk
	batchAt  int64  // where the batch in flight goes
	active   *segment
	sealed   []*segment // full segments, oldest first
	next     *segment   // prepared
	nextErr  error      // why there is none
	free     []*segment // to be recycled
	seen     dedupe
	failed   error
	closing  bool
	waiters  sync.Pool // of *waiter

	// state guards the index.
	state    sync.Mutex
	topics   map[string]*topicState
	groups   []*groupState // by id-1
	segments map[uint32]*segment
	moved    map[uint64]ref // where copied messages are now
	tokens   uint64

	topicMap atomic.Pointer[map[string]*topicState] // topics, for lookups without state

	depth, bytes atomic.Int64 // not yet settled
	stats        engineStats

	broken    chan struct{} // closed when the log has failed
	stop      chan struct{} // closed by Close
	committed chan struct{} // closed when commits has ended
	want      chan struct{} // prepare a segment
	sweep     chan struct{} // free segments
	tasks     sync.WaitGroup
}

type engineStats struct {
	published, duplicates, rejected, delivered, acked, retried, expired, dead, ttl, quarantined, commits atomic.Int64
}

// maxMessage is a quarter of a segment, so that rolling wastes little.
func (e *engine) maxMessage() int { return int(e.o.SegmentBytes / 4) }

func (e *engine) maxBatch() int { return int(min(maxBatch, e.o.SegmentBytes/4)) }

// reserve is room at the end of the last segment that publishers may not use, for the acks that will free the others.
func (e *engine) reserved() int64 { return min(1<<20, e.o.SegmentBytes/8) }

func (e *engine) Caps() Caps {
	c := Caps{MaxMessage: e.maxMessage(), DedupeWindow: max(0, e.o.DedupeWindow)}
	if e.o.UnsafeNoSync {
		c.Weaker = "UnsafeNoSync: a crash of the machine loses acknowledged messages"
	}
	return c
}

func (e *engine) Publish(ctx context.Context, msgs []Message, receipts []Receipt) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	size := 0
	for i := range msgs {
		n := messageBound(&msgs[i])
		if n > e.maxMessage() {
			return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, n, e.maxMessage())
		}
		size += n
	}
	if len(msgs) > 1 && size > e.maxBatch() {
		return fmt.Errorf("%w: batch of %d bytes, the limit is %d", ErrTooLarge, size, e.maxBatch())
	}
	// waiting would not help
	if e.o.MaxDepth > 0 && len(msgs) > e.o.MaxDepth || e.o.MaxBytes > 0 && int64(size) > e.o.MaxBytes {
		return fmt.Errorf("%w: %d messages of %d bytes, Options.MaxDepth is %d and MaxBytes %d", ErrTooLarge, len(msgs),
			size, e.o.MaxDepth, e.o.MaxBytes)
	}
	var one [1]dedupeKey
	keys := one[:]
	if len(msgs) > 1 {
		keys = make([]dedupeKey, len(msgs))
	}
	if e.o.DedupeWindow > 0 {
		for i := range msgs {
			if msgs[i].ID != "" {
				keys[i] = keyOf(msgs[i].Topic, msgs[i].ID)
			}
		}
	}
	for i := range msgs {
		if e.topic(msgs[i].Topic) == nil {
			e.addTopic(msgs[i].Topic)
		}
	}

	e.mu.Lock()
	if err := e.admit(ctx, len(msgs), size); err != nil {
		e.mu.Unlock()
		e.stats.rejected.Add(int64(len(msgs)))
		return err
	}
	w := e.add(msgs, keys, receipts)
	e.mu.Unlock()
	if w == nil {
		return nil // only duplicates, all durable
	}
	return w.wait(ctx)
}

// admit waits until the log and the limits have room; e.mu is held, and given up while waiting.
func (e *engine) admit(ctx context.Context, count, size int) error {
	var stop func() bool
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	for {
		if e.closing {
			return fmt.Errorf("publish: %w", ErrClosed)
		}
		if e.failed != nil {
			return e.failed
		}
		limited := e.o.MaxDepth > 0 && e.depth.Load()+int64(count) > int64(e.o.MaxDepth) ||
			e.o.MaxBytes > 0 && e.bytes.Load()+int64(size) > e.o.MaxBytes
		full := e.cur.count > 0 && len(e.cur.buf)+size > e.maxBatch()
		switch {
		case limited && !e.o.Block:
			return fmt.Errorf("%w: %d messages, %d bytes", ErrFull, e.depth.Load(), e.bytes.Load())
		case !limited && !full:
			if e.fits(size, e.reserved()) {
				return nil
			}
			e.wantSegment()
			if e.nextErr != nil {
				return fmt.Errorf("queue: no room for the log: %w", e.nextErr)
			}
		}
		if stop == nil {
			stop = context.AfterFunc(ctx, func() {
				e.mu.Lock()
				defer e.mu.Unlock()
				e.room.Broadcast()
			})
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		e.room.Wait()
	}
}

// fits reports whether n more bytes in the current batch leave keep bytes of the last segment; e.mu is held.
func (e *engine) fits(n int, keep int64) bool {
	return e.next != nil || e.active.end+align(int64(len(e.cur.buf)+n)) <= e.active.size-keep
}

// add appends the messages to the current batch; e.mu is held. It returns nil when there is nothing to wait for.
func (e *engine) add(msgs []Message, keys []dedupeKey, receipts []Receipt) *waiter {
	now := time.Now().UnixNano()
	b := e.cur
	added, pending, last := 0, false, -1
	for i := range msgs {
		m := &msgs[i]
		if keys[i] != (dedupeKey{}) {
			if seq, ok := e.seen.find(keys[i], now); ok {
				receipts[i] = Receipt{Seq: seq, Duplicate: true}
				e.stats.duplicates.Add(1)
				pending = pending || seq >= e.durable
				continue
			}
			e.seen.add(keys[i], e.nextSeq, now)
		}
		start := len(b.buf)
		b.buf = appendMessage(openRecord(b.buf, kindPublish), m, now)
		b.buf = closeRecord(b.buf, start)
		if last >= 0 {
			b.buf[last+8] |= kindContinues // all or none
		}
		last = start
		receipts[i] = Receipt{Seq: e.nextSeq}
		b.arrived = append(b.arrived, arrival{topic: e.topic(m.Topic), seq: e.nextSeq, offset: uint32(start),
			length: uint32(len(b.buf) - start), priority: m.Priority, key: hashKey(m.Key),
			notBefore: unixNano(m.NotBefore)})
		e.nextSeq++
		b.count++
		added++
		e.bytes.Add(int64(len(b.buf) - start))
	}
	e.depth.Add(int64(added))
	e.stats.published.Add(int64(added))
	if added == 0 {
		if !pending {
			return nil
		}
		// Wait for the batch that holds the original: no "duplicate" before that is durable.
		if b = e.inflight; b == nil || e.cur.count > 0 {
			b = e.cur
		}
		if b.count == 0 {
			return nil
		}
	}
	w := e.waiter()
	if !b.sync { // the batch in flight holds a message, so it is set there
		b.sync = true
	}
	b.people++
	b.waiters = append(b.waiters, w)
	e.filled.Signal()
	return w
}

// note appends a record that nobody has to make room for: settlements, which must go through also when publishers must
// not. With wait it returns a waiter. e.state may be held.
func (e *engine) note(k kind, wait bool, payload func([]byte) []byte) (*waiter, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil {
		return nil, e.failed
	}
	if e.closing {
		return nil, ErrClosed
	}
	b := e.cur
	start, after := len(b.buf), len(b.after)
	b.buf = closeRecord(payload(openRecord(b.buf, k)), start)
	if !e.fits(0, 0) {
		b.buf, b.after = b.buf[:start], b.after[:after]
		e.wantSegment()
		if e.nextErr == nil {
			return nil, fmt.Errorf("queue: log is full")
		}
		return nil, fmt.Errorf("queue: no room for the log: %w", e.nextErr)
	}
	e.nextSeq++
	b.count++
	e.filled.Signal()
	if !wait {
		return nil, nil
	}
	w := e.waiter()
	b.sync = true
	b.people++
	b.waiters = append(b.waiters, w)
	return w, nil
}

func (e *engine) topic(name string) *topicState { return (*e.topicMap.Load())[name] }

func (e *engine) addTopic(name string) *topicState {
	e.state.Lock()
	defer e.state.Unlock()
	return e.ensureTopic(name)
}

func (e *engine) ensureTopic(name string) *topicState {
	if t := e.topics[name]; t != nil {
		return t
	}
	t := &topicState{name: name}
	e.topics[name] = t
	m := make(map[string]*topicState, len(e.topics))
	for k, v := range e.topics {
		m[k] = v
	}
	e.topicMap.Store(&m)
	return t
}

// dedupeKey is a truncated SHA-256: IDs may come from clients, and a collision would drop a message.
type dedupeKey [16]byte

func keyOf(topic, id string) dedupeKey {
	var b [128]byte
	buf := append(append(append(b[:0], topic...), 0), id...)
	sum := sha256.Sum256(buf)
	return dedupeKey(sum[:16])
}

// dedupe remembers IDs for a window. Entries stand in the order of their place in the log, which is where they are
// freed.
type dedupe struct {
	window int64
	max    int
	at     map[dedupeKey]seenAt
	order  []dedupeHome
	head   int
}

type seenAt struct {
	seq  uint64 // of the message
	time int64
}

type dedupeHome struct {
	key  dedupeKey
	home uint64 // number of the record that holds the ID
}

func (d *dedupe) find(k dedupeKey, now int64) (uint64, bool) {
	s, ok := d.at[k]
	if !ok || now-s.time > d.window {
		return 0, false
	}
	return s.seq, true
}

func (d *dedupe) add(k dedupeKey, seq uint64, now int64) { d.put(k, seenAt{seq, now}, seq) }

func (d *dedupe) put(k dedupeKey, s seenAt, home uint64) {
	if d.at == nil {
		d.at = map[dedupeKey]seenAt{}
	}
	d.at[k] = s
	d.order = append(d.order, dedupeHome{k, home})
	for n := 0; n < 4 && d.head < len(d.order); n++ { // a little at a time
		h := d.order[d.head]
		cur, ok := d.at[h.key]
		if ok && len(d.order)-d.head <= d.max && s.time-cur.time <= d.window {
			break
		}
		d.drop(h)
	}
}

func (d *dedupe) drop(h dedupeHome) {
	if cur, ok := d.at[h.key]; ok && cur.seq <= h.home {
		delete(d.at, h.key)
	}
	d.order[d.head] = dedupeHome{}
	d.head++
	if d.head > 1024 && d.head > len(d.order)/2 {
		d.order = append([]dedupeHome(nil), d.order[d.head:]...)
		d.head = 0
	}
}

// carry takes out up to max IDs whose record has a number below limit and which are still needed, for writing them
// again.
func (d *dedupe) carry(limit uint64, now int64, max int) (keys []dedupeKey, at []seenAt) {
	for d.head < len(d.order) && len(keys) < max {
		h := d.order[d.head]
		if h.home >= limit {
			break
		}
		cur, ok := d.at[h.key]
		if ok && cur.seq <= h.home && now-cur.time <= d.window {
			keys, at = append(keys, h.key), append(at, cur)
			d.order[d.head] = dedupeHome{}
			d.head++
			continue
		}
		d.drop(h)
	}
	return keys, at
}

// putBack undoes carry: the IDs were not written, and are to be carried before their records go.
func (d *dedupe) putBack(keys []dedupeKey, at []seenAt) {
	carried := make(map[dedupeKey]bool, len(keys))
	order := make([]dedupeHome, 0, len(keys)+len(d.order)-d.head)
	for i, k := range keys {
		carried[k] = true
		order = append(order, dedupeHome{k, at[i].seq})
	}
	for _, h := range d.order[d.head:] {
		if !carried[h.key] {
			order = append(order, h)
		}
	}
	d.order, d.head = order, 0
}
