package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// batch is what one frame will hold, filled by many producers while the batch before it is on its way to the disk.
type batch struct {
	buf     []byte // room for the frame header, then records
	count   uint32
	sync    bool // somebody waits for the disk
	arrived []arrival
	copies  []copying
	waiters []*waiter
	after   []func() // called when it is on disk, before anything else is written
	people  int      // producers in this batch, for the gathering of the next
}

// arrival is a published message of the batch, for the index, once it is durable.
type arrival struct {
	topic     *topicState
	seq       uint64
	offset    uint32 // in batch.buf
	length    uint32
	priority  uint8
	key       uint64
	notBefore int64
}

type waiter struct {
	done chan error
	home *sync.Pool
}

// waiter takes one from the queue's own pool: a channel must not come from another queue, which may live in a bubble of
// testing/synctest.
func (e *engine) waiter() *waiter {
	if w, ok := e.waiters.Get().(*waiter); ok {
		return w
	}
	return &waiter{make(chan error, 1), &e.waiters}
}

// maxBatch bounds a batch, so that its write does not delay those who come after; one larger message is a batch alone.
const maxBatch = 4 << 20

// commits writes batches, one after the other. It is the only writer of segments that are in use.
func (e *engine) commits() {
	defer close(e.committed)
	spare := newBatch()
	people, last := 0, time.Duration(0)
	for {
		e.gather(people, last)
		e.mu.Lock()
		for e.cur.count == 0 && !e.closing {
			e.filled.Wait()
		}
		if e.cur.count == 0 {
			e.mu.Unlock()
			return
		}
		b := e.cur
		e.cur, e.inflight = spare, b
		full, err := e.reserve(b)
		base := e.nextSeq - uint64(b.count)
		e.mu.Unlock()
		e.room.Broadcast()

		start := time.Now()
		if err == nil {
			err = e.write(b, base, full)
		}
		last = time.Since(start)
		if err == nil {
			e.index(b)
			if h := e.o.Hooks; h != nil && h.Committed != nil {
				h.Committed(int(b.count), len(b.buf), last)
			}
		}
		e.mu.Lock()
		e.inflight = nil
		if err != nil {
			e.fail(err)
		} else if b.sync {
			e.durable = base + uint64(b.count)
		}
		err = e.failed
		e.mu.Unlock()
		for _, f := range b.after {
			f()
		}
		for i, w := range b.waiters {
			w.done <- err
			b.waiters[i] = nil
		}
		people = b.people
		b.reset()
		spare = b
	}
}

// gather waits for the producers that the last commit released: they are about to come back, and half a batch now would
// mean that the other half waits for the next one. It waits no longer than a quarter of a commit, and not at all for a
// single producer.
func (e *engine) gather(people int, last time.Duration) {
	if people < 2 {
		return
	}
	start, limit := time.Now(), min(last/4, 100*time.Microsecond)
	for time.Since(start) < limit {
		e.mu.Lock()
		enough := e.cur.people >= people || len(e.cur.buf) > maxBatch/2
		e.mu.Unlock()
		if enough {
			return
		}
		runtime.Gosched()
	}
}

func newBatch() *batch { return &batch{buf: make([]byte, frameHeader, 64<<10)} }

func (b *batch) reset() {
	if cap(b.buf) > 2*maxBatch {
		b.buf = make([]byte, frameHeader, 64<<10)
	}
	clear(b.arrived)
	*b = batch{buf: b.buf[:frameHeader], arrived: b.arrived[:0], copies: b.copies[:0], waiters: b.waiters[:0]}
}

// reserve gives the batch its place in the log; e.mu is held. Admission has seen to it that there is room. When that
// begins a new segment, full is the one before it.
func (e *engine) reserve(b *batch) (full *segment, err error) {
	if e.failed != nil {
		return nil, e.failed
	}
	n := align(int64(len(b.buf)))
	if e.active.end+n > e.active.size {
		next := e.next
		if next == nil {
			return nil, fmt.Errorf("no segment to go on with: %w", e.nextErr)
		}
		e.next = nil
		full = e.active
		e.active = next
		next.base = e.nextSeq - uint64(b.count)
	}
	e.batchAt = e.active.end
	e.active.end += n
	if e.next == nil && e.active.end > e.active.size/4 {
		e.wantSegment()
	}
	return full, nil
}

// write puts the batch on disk.
func (e *engine) write(b *batch, base uint64, full *segment) error {
	seg := e.active // changed by this goroutine only
	if full != nil {
		if err := e.enter(seg, full, base); err != nil {
			return err
		}
	}
	records := b.buf[frameHeader:]
	sealRecords(records, seg.epoch)
	frame{length: uint32(len(records)), count: b.count, base: base, durable: e.durable}.put(b.buf, seg.epoch)
	if _, err := seg.file.WriteAt(b.buf, e.batchAt); err != nil {
		return fmt.Errorf("write %s: %w", seg.name(), err)
	}
	if !b.sync || e.o.UnsafeNoSync {
		return nil
	}
	if err := seg.file.Datasync(); err != nil {
		return fmt.Errorf("fdatasync %s: %w", seg.name(), err)
	}
	e.stats.commits.Add(1)
	return nil
}

// enter makes seg the segment in use: it begins with a frame that says which groups exist, so that older ones can be
// freed.
func (e *engine) enter(seg, full *segment, base uint64) error {
	e.state.Lock()
	e.segments[seg.id] = seg
	snapshot := e.groupsRecord(nil)
	e.state.Unlock()
	buf := append(make([]byte, frameHeader), snapshot...)
	sealRecords(buf[frameHeader:], seg.epoch)
	frame{length: uint32(len(snapshot)), base: base, durable: e.durable}.put(buf, seg.epoch)
	shift := align(int64(len(buf)))
	e.mu.Lock()
	fits := seg.end+shift <= seg.size
	if fits {
		e.batchAt += shift
		seg.end += shift
	}
	e.mu.Unlock()
	if !fits {
		return errors.New("the list of groups does not fit in a segment")
	}
	if _, err := seg.file.WriteAt(buf, segmentHeader); err != nil {
		return fmt.Errorf("write %s: %w", seg.name(), err)
	}
	// The full segment may hold writes that nobody waited for; sync it, so that the log has no hole, before the cleaner
	// may have it.
	if err := full.file.Datasync(); err != nil {
		return fmt.Errorf("fdatasync %s: %w", full.name(), err)
	}
	e.mu.Lock()
	e.sealed = append(e.sealed, full)
	e.mu.Unlock()
	return nil
}

// fail stops the log for good; e.mu is held. After a failed write or fsync nobody knows what the disk holds, and a
// second fsync would report success for pages that the kernel has dropped.
func (e *engine) fail(cause error) {
	if e.failed == nil {
		e.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
		close(e.broken)
	}
	e.room.Broadcast()
}

// index makes the batch's messages deliverable, now that they are durable.
func (e *engine) index(b *batch) {
	if len(b.arrived)+len(b.copies) == 0 {
		return
	}
	now := time.Now().UnixNano()
	e.state.Lock()
	defer e.state.Unlock()
	e.recopy(b)
	seg := e.active
	for i := range b.arrived {
		a := &b.arrived[i]
		r := ref{seq: a.seq, segment: seg.id, offset: uint32(e.batchAt) + a.offset, length: a.length,
			priority: a.priority}
		seg.live++
		seg.liveBytes += int64(a.length)
		if len(a.topic.groups) == 0 {
			a.topic.orphans.push(r)
			continue
		}
		for _, g := range a.topic.groups {
			// else it was on its way to the disk when the group was made, and a recovery would not give it either
			if a.seq >= g.since {
				g.arrive(r, a.key, a.notBefore, now)
			}
		}
	}
}

// wait returns when the waiter's batch is on disk, or ctx ends (the outcome is then unknown).
func (w *waiter) wait(ctx context.Context) error {
	select {
	case err := <-w.done:
		w.home.Put(w)
		return err
	case <-ctx.Done():
		return fmt.Errorf("queue: outcome unknown: %w", ctx.Err())
	}
}
