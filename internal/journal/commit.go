package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// batch is what one frame will hold, filled by many goroutines while the one before it is on its way to the disk.
type batch struct {
	buf     []byte // room for the frame header, then entries
	marks   []byte // records about older entries
	arrived []arrival
	people  int
}

type arrival struct {
	seq     uint64
	off     int // of its record in buf
	applied func(seq uint64)
	done    chan error
}

const maxBatch = 1 << 20 // a batch of more is closed; bounded by half a segment as well

func (j *Journal) room() int { return int(min(maxBatch, j.o.SegmentBytes/2)) }

func newBatch() *batch { return &batch{buf: make([]byte, frameHeader, 64<<10)} }

func (b *batch) reset() {
	clear(b.arrived)
	*b = batch{buf: b.buf[:frameHeader], marks: b.marks[:0], arrived: b.arrived[:0]}
}

// commits writes batches, one after the other. It is the only writer of segments in use.
func (j *Journal) commits() {
	defer close(j.committed)
	spare := newBatch()
	people, last := 0, time.Duration(0)
	for {
		j.gather(people, last)
		j.mu.Lock()
		for len(j.cur.arrived) == 0 && !(j.quiet && len(j.cur.marks) > 0) && !j.closing {
			j.filled.Wait()
		}
		if j.closing && len(j.cur.arrived) == 0 && (len(j.cur.marks) == 0 || j.failed != nil) {
			j.mu.Unlock()
			return
		}
		b := j.cur
		j.cur, j.quiet = spare, false
		err := j.failed
		next := j.nextSeq
		j.ready.Broadcast() // there is room in the batch
		j.mu.Unlock()
		start := time.Now()
		if err == nil {
			err = j.commit(b, next)
		}
		last = time.Since(start)
		people = b.people
		if err != nil {
			j.mu.Lock()
			if j.failed != nil {
				err = j.failed
			} else if !errors.Is(err, ErrNoRoom) {
				j.fail(err)
				err = j.failed
			} else {
				j.cur.marks = append(slices.Clone(b.marks), j.cur.marks...)
			}
			closing := j.closing
			j.mu.Unlock()
			for _, a := range b.arrived {
				a.done <- err
			}
			if closing && len(b.arrived) == 0 {
				return
			}
		} else {
			j.arrive(b)
		}
		b.reset()
		spare = b
		if err == nil {
			j.compact()
		}
	}
}

// gather waits for those whom the last commit released: they are about to come back, and half a batch now would mean
// that the other half waits for the next one. It waits no longer than a quarter of a commit, and not at all for a
// single goroutine.
func (j *Journal) gather(people int, last time.Duration) {
	if people < 2 {
		return
	}
	start, limit := time.Now(), min(last/4, 100*time.Microsecond)
	for time.Since(start) < limit {
		j.mu.Lock()
		enough := j.cur.people >= people || len(j.cur.buf) > j.room()/2
		j.mu.Unlock()
		if enough {
			return
		}
		runtime.Gosched()
	}
}

// commit writes a batch. What it says of older entries goes into the same frame, unless that is much.
func (j *Journal) commit(b *batch, next uint64) error {
	if len(b.buf)+len(b.marks) <= j.room() {
		b.buf = append(b.buf, b.marks...)
		return j.write(b.buf, next, len(b.arrived) > 0)
	}
	frame := make([]byte, frameHeader, j.room())
	for rest := b.marks; len(rest) > 0; {
		_, _, _, size, _ := parseRecord(rest)
		if len(frame)+size > j.room() {
			if err := j.write(frame, next, false); err != nil {
				return err
			}
			frame = frame[:frameHeader]
		}
		frame = append(frame, rest[:size]...)
		rest = rest[size:]
	}
	if err := j.write(frame, next, false); err != nil || len(b.arrived) == 0 {
		return err
	}
	return j.write(b.buf, next, true)
}

// write puts a frame on disk; sync: and waits until it is there.
func (j *Journal) write(buf []byte, next uint64, sync bool) error {
	n := align(int64(len(buf)))
	if j.active.end+n > j.active.size {
		if err := j.enter(); err != nil {
			return err
		}
	}
	s := j.active
	frame{number: j.number, durable: j.durable, next: next}.put(buf, s.epoch)
	if _, err := s.file.WriteAt(buf, s.end); err != nil {
		return fmt.Errorf("write %s: %w", s.name(), err)
	}
	s.end += n
	s.dirty = true
	j.number++
	j.bytes.Add(int64(len(buf)))
	if !sync {
		return nil
	}
	return j.sync(s)
}

func (j *Journal) sync(s *segment) error {
	if err := s.file.Datasync(); err != nil {
		return fmt.Errorf("fdatasync %s: %w", s.name(), err)
	}
	s.dirty = false
	j.durable = j.number
	j.syncs.Add(1)
	return nil
}

// enter goes on to the next segment. When there is none, and none can be made, that is ErrNoRoom.
func (j *Journal) enter() error {
	if s := j.active; s.dirty { // the log has no hole
		if err := j.sync(s); err != nil {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.next == nil {
		j.ask()
		for j.wanted && j.failed == nil {
			j.ready.Wait()
		}
	}
	switch {
	case j.failed != nil:
		return j.failed
	case j.next == nil:
		return fmt.Errorf("%w: %w", ErrNoRoom, j.nextErr)
	}
	j.active = j.next
	j.next = nil
	j.segments = append(j.segments, j.active)
	j.knock()
	return nil
}

// ask has keeps make a segment; mu is held.
func (j *Journal) ask() {
	if j.next == nil && !j.wanted {
		j.wanted = true
		j.knock()
	}
}

// arrive makes the entries of a batch known, now that they are durable.
func (j *Journal) arrive(b *batch) {
	at := j.active.end - align(int64(len(b.buf)))
	j.mu.Lock()
	s := j.active
	for _, a := range b.arrived {
		length := int(binary.LittleEndian.Uint32(b.buf[a.off+1:]))
		j.entries[a.seq] = &entry{segment: s, off: at + int64(a.off+recordHeader), length: length}
		s.live++
		s.liveBytes += int64(length)
	}
	if s.end > s.size/4 {
		j.ask()
	}
	j.mu.Unlock()
	for _, a := range b.arrived {
		if a.applied != nil {
			a.applied(a.seq)
		}
		a.done <- nil
	}
}
