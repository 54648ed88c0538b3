package queue

import (
	"context"
	"encoding/binary"
	"time"
)

// cleans gives back segments whose messages are all settled, oldest first. Everything that is recorded about a message
// stands behind it in the log, so that the oldest segment can go without losing anything but what is settled; a few
// messages that live on in it are copied to the end of the log first, so that one old message does not pin the disk.
func (e *engine) cleans() {
	defer e.tasks.Done()
	for {
		select {
		case <-e.stop:
			return
		case <-e.broken:
			return
		case <-e.sweep:
		}
		for e.cleanOldest() {
		}
	}
}

// kickCleaner is called when a segment may have become free.
func (e *engine) kickCleaner() {
	select {
	case e.sweep <- struct{}{}:
	default:
	}
}

func (e *engine) cleanOldest() bool {
	e.mu.Lock()
	if len(e.sealed) == 0 || e.failed != nil || e.closing {
		e.mu.Unlock()
		return false
	}
	seg := e.sealed[0]
	limit := e.active.base
	if len(e.sealed) > 1 {
		limit = e.sealed[1].base
	}
	count := len(e.sealed) + 1
	e.mu.Unlock()

	e.state.Lock()
	live, total := seg.liveBytes, int64(0)
	for _, s := range e.segments {
		total += s.liveBytes
	}
	empty := seg.live == 0
	e.state.Unlock()
	if !empty {
		// Copy when the log is more than twice what lives in it; the slack keeps small queues from copying at all.
		if int64(count)*e.o.SegmentBytes <= 2*total+3*e.o.SegmentBytes || live > e.o.SegmentBytes/2 &&
			int64(count)*e.o.SegmentBytes <= 4*total {
			return false
		}
		if !e.copyLive(seg) {
			return false
		}
	}
	if !e.carryIDs(limit) {
		return false
	}
	e.state.Lock()
	if seg.live > 0 || seg.pins > 0 {
		e.state.Unlock()
		return false
	}
	delete(e.segments, seg.id)
	e.state.Unlock()
	e.mu.Lock()
	e.sealed = e.sealed[1:]
	keep := len(e.free) < maxFree && seg.size == e.o.SegmentBytes
	e.mu.Unlock()
	if !keep {
		seg.file.Close()
		_ = e.files.Remove(seg.name())
	} else if err := e.files.Rename(seg.name(), freeName(seg)); err != nil {
		seg.file.Close()
		_ = e.files.Remove(seg.name())
	} else {
		e.mu.Lock()
		e.free = append(e.free, seg)
		e.mu.Unlock()
	}
	e.mu.Lock()
	if e.nextErr != nil {
		e.wantSegment() // there may be room now
	}
	e.mu.Unlock()
	return true
}

// carryIDs writes the message IDs that are still to be remembered, and whose records are about to go, again. It returns
// when they, and with them every settlement made before, are on disk.
func (e *engine) carryIDs(limit uint64) bool {
	for {
		e.mu.Lock()
		keys, at := e.seen.carry(limit, time.Now().UnixNano(), 4096)
		e.mu.Unlock()
		k := kindSeen
		if len(keys) == 0 {
			k = kindNothing
		}
		var home uint64
		w, err := e.note(k, true, func(b []byte) []byte {
			home = e.nextSeq
			if len(keys) == 0 {
				return b
			}
			b = binary.AppendUvarint(b, uint64(len(keys)))
			for i := range keys {
				b = append(b, keys[i][:]...)
				b = binary.AppendUvarint(b, at[i].seq)
				b = binary.AppendUvarint(b, uint64(at[i].time))
			}
			for i := range keys {
				e.seen.order = append(e.seen.order, dedupeHome{keys[i], home})
			}
			return b
		})
		if err != nil {
			e.mu.Lock()
			e.seen.putBack(keys, at)
			e.mu.Unlock()
			return false
		}
		if w.wait(context.Background()) != nil {
			return false
		}
		if len(keys) == 0 {
			return true
		}
	}
}

// copyLive copies every live message of a segment to the end of the log, and returns when the copies are durable and in
// use.
func (e *engine) copyLive(seg *segment) bool {
	ok := true
	s := &scanner{seg: seg, expected: seg.base, damaged: func(damage, bool) {}}
	end := seg.end
	s.visit = func(en entry) error {
		var seq uint64
		payload := en.payload
		switch en.kind {
		case kindPublish:
			seq = en.seq
		case kindCopy:
			p := reads(payload)
			seq, _, _ = p.copied()
			payload = p.B
		default:
			return nil
		}
		select {
		case <-e.stop:
			return ErrClosed
		default:
		}
		e.state.Lock()
		at := e.where(ref{seq: seq, segment: seg.id, offset: en.offset})
		if at.segment != seg.id || at.offset != en.offset {
			e.state.Unlock()
			return nil // a newer copy exists
		}
		p := reads(payload)
		x := p.routing()
		t := e.topics[string(x.topic)]
		if t == nil || p.Bad {
			e.state.Unlock()
			return nil
		}
		views, orphan := e.views(t, seq)
		if len(views) == 0 && !orphan {
			e.state.Unlock()
			return nil
		}
		old := ref{seq: seq, segment: seg.id, offset: en.offset, length: en.length, priority: x.priority}
		w, err := e.noteCopy(t, old, func(b []byte) []byte {
			return append(appendCopied(b, seq, orphan, views), payload...)
		})
		e.state.Unlock()
		if err != nil {
			return err
		}
		return w.wait(context.Background()) // one at a time keeps the cleaner in the background
	}
	if err := s.run(); err != nil {
		ok = false
	}
	seg.end = end
	return ok
}

// noteCopy is note for a copied message, whose place in memory changes when the copy is durable. e.state is held.
func (e *engine) noteCopy(t *topicState, old ref, payload func([]byte) []byte) (*waiter, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil || e.closing {
		return nil, ErrClosed
	}
	b := e.cur
	start := len(b.buf)
	b.buf = closeRecord(payload(openRecord(b.buf, kindCopy)), start)
	if !e.fits(0, e.reserved()) || len(b.buf) > 2*e.maxBatch() {
		b.buf = b.buf[:start]
		e.wantSegment()
		return nil, ErrFull
	}
	b.copies = append(b.copies, copying{t, old, uint32(start), uint32(len(b.buf) - start)})
	e.nextSeq++
	b.count++
	b.sync = true
	w := e.waiter()
	b.waiters = append(b.waiters, w)
	e.filled.Signal()
	return w, nil
}

// copying is a message on its way to a new place.
type copying struct {
	topic          *topicState
	old            ref
	offset, length uint32
}

// recopy makes durable copies the place that messages are read from; e.state is held.
func (e *engine) recopy(b *batch) {
	for _, c := range b.copies {
		old := e.segments[c.old.segment]
		if old == nil || !c.topic.wants(c.old.seq) {
			continue // settled meanwhile
		}
		at := c.old
		at.segment, at.offset, at.length = e.active.id, uint32(e.batchAt)+c.offset, c.length
		e.moved[at.seq] = at
		old.live--
		old.liveBytes -= int64(c.old.length)
		e.active.live++
		e.active.liveBytes += int64(c.length)
		e.bytes.Add(int64(c.length) - int64(c.old.length)) // what gone will take off again
	}
}

// where is the place of a message now; e.state is held.
func (e *engine) where(r ref) ref {
	if len(e.moved) > 0 {
		if m, ok := e.moved[r.seq]; ok {
			m.attempts, m.redriven = r.attempts, r.redriven
			return m
		}
	}
	return r
}

// views is what each group that is not done with a message knows of it; e.state is held.
func (e *engine) views(t *topicState, seq uint64) (vs []copied, orphan bool) {
	for _, g := range t.groups {
		if !g.live.has(seq) {
			continue
		}
		v := copied{group: g.id}
		if l := g.leases[seq]; l != nil {
			v.attempts, v.redriven = l.r.attempts, l.r.redriven
		} else if g.tried.has(seq) {
			g.find(seq, &v)
		}
		vs = append(vs, v)
	}
	return vs, len(t.groups) == 0
}

// find looks for a message that was delivered before, or is dead, and is not leased.
func (g *groupState) find(seq uint64, v *copied) {
	for i := range g.dead {
		if d := &g.dead[i]; d.r.seq == seq {
			v.attempts, v.dead, v.diedAt, v.reason = d.r.attempts, true, d.at, d.reason
			return
		}
	}
	for i := range g.delayed {
		if d := &g.delayed[i]; d.r.seq == seq {
			v.attempts, v.redriven, v.until = d.r.attempts, d.r.redriven, d.at
			return
		}
	}
	look := func(r *ref) {
		if r.seq == seq {
			v.attempts, v.redriven = r.attempts, r.redriven
		}
	}
	for p := range g.ready {
		g.ready[p].each(look)
	}
	for _, q := range g.behind { // a redriven message may have taken its place
		if q != nil {
			q.each(look)
		}
	}
	v.until = g.later[seq]
}

// wants reports whether a group of the topic is not done with the message, or a topic without groups keeps it for the
// first; engine.state is held.
func (t *topicState) wants(seq uint64) bool {
	for _, g := range t.groups {
		if g.live.has(seq) {
			return true
		}
	}
	return len(t.groups) == 0
}
