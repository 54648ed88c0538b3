package queue

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// recovery rebuilds the index from the log. It reads every segment twice: first what happened to messages, then the messages
// themselves, so that only those still to be delivered ever take memory.
type recovery struct {
	e        *engine
	segments []*segment
	now      int64
	groups   map[uint32]*recovered
	copies   map[uint64]copyOf
	next     uint64 // number of the next record
	readOnly bool   // for Check
	torn     int64  // bytes that a crash cut off
}

// recovered is the fate of one group's messages.
type recovered struct {
	groupRecord
	done seqSet
	fate map[uint64]*fate
}

// fate is what is known of a message that was delivered at least once.
type fate struct {
	attempts uint16
	until    int64
	dead     bool
	diedAt   int64
	reason   string
}

type copyOf struct {
	r      ref
	orphan bool
	groups []copied
}

func (g *recovered) of(seq uint64) *fate {
	f := g.fate[seq]
	if f == nil {
		f = &fate{}
		g.fate[seq] = f
	}
	return f
}

// recover opens the directory's segments and fills the engine; it leaves one segment ready to be written to.
func (e *engine) recover() error {
	names, err := e.files.List()
	if err != nil {
		return err
	}
	r := &recovery{e: e, now: time.Now().UnixNano(), groups: map[uint32]*recovered{}, copies: map[uint64]copyOf{}, next: 1}
	if err := r.open(names); err != nil {
		for _, s := range r.segments {
			s.file.Close()
		}
		return err
	}
	var last *segment
	if n := len(r.segments); n > 0 {
		last = r.segments[n-1]
	}
	e.nextSeq, e.durable = r.next, r.next
	if last != nil && last.end == segmentHeader {
		e.active = last // prepared, and not used
		r.segments = r.segments[:len(r.segments)-1]
	} else {
		id := uint32(1)
		if last != nil {
			id = last.id + 1
		}
		if e.active, err = e.prepare(id, nil); err != nil {
			return err
		}
	}
	e.sealed = r.segments
	for _, s := range r.segments {
		e.segments[s.id] = s
	}
	e.segments[e.active.id] = e.active
	if err := r.messages(); err != nil {
		return err
	}
	return e.begin()
}

// begin writes the snapshot of the groups into the first segment in use.
func (e *engine) begin() error {
	buf := append(make([]byte, frameHeader), e.groupsRecord(nil)...)
	sealRecords(buf[frameHeader:], e.active.epoch)
	frame{length: uint32(len(buf) - frameHeader), base: e.nextSeq, durable: e.durable}.put(buf, e.active.epoch)
	if _, err := e.active.file.WriteAt(buf, segmentHeader); err != nil {
		return err
	}
	e.active.base = e.nextSeq
	e.active.end = align(segmentHeader + int64(len(buf)))
	return e.active.file.Datasync()
}

func (r *recovery) open(names []string) error {
	e := r.e
	for _, name := range names {
		switch id, epoch, ok := parseSegmentName(name); {
		case strings.HasPrefix(name, prepPrefix), strings.HasPrefix(name, freePrefix):
			if err := e.files.Remove(name); err != nil {
				return err
			}
		case ok:
			f, err := e.files.Open(name)
			if err != nil {
				return err
			}
			seg := &segment{id: id, epoch: epoch, file: f, end: segmentHeader}
			r.segments = append(r.segments, seg)
			if seg.size, err = f.Size(); err != nil {
				return err
			}
			var h [segmentHeader]byte
			_, _ = f.ReadAt(h[:], 0)
			hid, hepoch, size, ok := parseSegmentHeader(h[:])
			if !ok || uint32(hid) != id || hepoch != epoch {
				e.corrupt(seg, damage{0, segmentHeader, 0}, "segment header is damaged")
				putSegmentHeader(h[:], uint64(id), epoch, seg.size)
				if _, err := f.WriteAt(h[:], 0); err != nil {
					return err
				}
			} else {
				seg.size = size
			}
		}
	}
	slices.SortFunc(r.segments, func(a, b *segment) int { return int(a.id) - int(b.id) })
	return r.scan()
}

// scan is the first reading.
func (r *recovery) scan() error {
	var held []entry
	var pending []damage // at the end of the newest segment with frames: torn, unless more follows
	var pendingIn *segment
	var end *scanner // of the newest segment with frames
	for i, seg := range r.segments {
		first := true
		s := &scanner{seg: seg, expected: r.next, visit: func(en entry) error { return r.apply(seg, en) }}
		seg.base = r.next // also when the header of its first frame is damaged
		s.held = held
		s.frameSeen = func(f frame) {
			if first && i > 0 && f.base > r.next {
				prev := r.segments[i-1]
				r.e.corrupt(prev, damage{prev.end, prev.size - prev.end, r.next}, "records are missing")
			}
			if first && i == 0 {
				seg.base = f.base
			}
			first = false
			for _, d := range pending {
				r.e.corrupt(pendingIn, d, "checksum does not match")
			}
			pending = nil
		}
		s.damaged = func(d damage, _ bool) { pending, pendingIn = append(pending, d), seg }
		if err := s.run(); err != nil {
			return fmt.Errorf("queue: read %s: %w", seg.name(), err)
		}
		held = s.held
		r.next = max(r.next, s.expected)
		if s.frames > 0 {
			end = s
		}
	}
	if end == nil {
		return nil
	}
	return r.mend(end, held, pending, pendingIn)
}

// mend ends the log behind its last intact record. What is pending there was cut off by a crash: it was never acknowledged and is not worth a
// report, but it must not come back either, now that producers may publish it again.
func (r *recovery) mend(s *scanner, held []entry, pending []damage, in *segment) error {
	seg := s.seg
	cut := seg.end
	if in == seg && len(pending) > 0 {
		cut = min(cut, pending[0].offset)
	}
	for _, en := range held {
		cut = min(cut, int64(en.offset))
	}
	if cut > s.framePos && cut < seg.end && s.visited < cut { // inside the last frame: make it shorter
		var h [frameHeader]byte
		s.frame.count -= min(s.frame.count, uint32(r.next-s.firstAt(cut, held, pending)))
		s.frame.length = uint32(cut - s.framePos - frameHeader)
		s.frame.put(h[:], seg.epoch)
		if _, err := seg.file.WriteAt(h[:], s.framePos); err != nil {
			return err
		}
		r.next = s.frame.base + uint64(s.frame.count)
	} else {
		for _, en := range held {
			if _, err := seg.file.WriteAt(make([]byte, en.length), int64(en.offset)); err != nil {
				return err
			}
		}
		cut = seg.end
	}
	r.torn += seg.end - cut
	if r.readOnly {
		return nil
	}
	zeros := make([]byte, min(maxBatch+frameHeader, seg.size-cut))
	if len(zeros) > 0 {
		if _, err := seg.file.WriteAt(zeros, cut); err != nil {
			return err
		}
	}
	seg.end = align(cut)
	return seg.file.Datasync()
}

// apply takes one record of the first reading.
func (r *recovery) apply(seg *segment, en entry) error {
	p := reader{b: en.payload}
	group := func() *recovered {
		id := uint32(p.uvarint())
		g := r.groups[id]
		if g == nil {
			g = &recovered{groupRecord: groupRecord{id: id}, fate: map[uint64]*fate{}}
			r.groups[id] = g
		}
		return g
	}
	each := func(f func(seq uint64)) {
		for n := p.uvarint(); n > 0 && !p.bad; n-- {
			f(p.uvarint())
		}
	}
	switch en.kind {
	case kindPublish:
		if x := p.routing(); !p.bad && len(x.id) > 0 && r.now-x.published <= r.e.seen.window {
			r.e.seen.add(keyOf(string(x.topic), string(x.id)), en.seq, x.published)
		}
	case kindGroups:
		for _, gr := range p.groups() {
			if g := r.groups[gr.id]; g != nil {
				g.groupRecord = gr
			} else {
				r.groups[gr.id] = &recovered{groupRecord: gr, fate: map[uint64]*fate{}}
			}
		}
	case kindLease:
		g := group()
		each(func(seq uint64) { g.of(seq).attempts++ })
	case kindRelease:
		g := group()
		each(func(seq uint64) {
			if f := g.of(seq); f.attempts > 0 {
				f.attempts--
			}
		})
	case kindDone:
		g := group()
		each(func(seq uint64) {
			g.done.add(seq)
			delete(g.fate, seq)
		})
	case kindNack:
		g := group()
		seq := p.uvarint()
		g.of(seq).until = int64(p.uvarint())
	case kindDead:
		g := group()
		f := g.of(p.uvarint())
		f.dead, f.diedAt = true, int64(p.uvarint())
		f.attempts = uint16(p.uvarint())
		f.reason = p.string()
	case kindRedrive:
		g := group()
		each(func(seq uint64) { *g.of(seq) = fate{} })
	case kindCopy:
		seq, orphan, cs := p.copied()
		if p.bad {
			break
		}
		x := p.routing()
		r.copies[seq] = copyOf{ref{seq: seq, segment: seg.id, offset: en.offset, length: en.length, priority: x.priority}, orphan, cs}
		for _, c := range cs {
			if g := r.groups[c.group]; g != nil {
				*g.of(seq) = fate{c.attempts, c.until, c.dead, c.diedAt, c.reason}
			}
		}
	case kindSeen:
		for n := p.uvarint(); n > 0 && !p.bad; n-- {
			var k dedupeKey
			if len(p.b) < len(k) {
				return nil
			}
			copy(k[:], p.b)
			p.b = p.b[len(k):]
			at := seenAt{seq: p.uvarint(), time: int64(p.uvarint())}
			if r.now-at.time <= r.e.seen.window {
				r.e.seen.put(k, at, en.seq)
			}
		}
	}
	return nil // a record that passes its checksum and does not parse is from a newer version: left alone
}

// messages is the second reading.
func (r *recovery) messages() error {
	e := r.e
	ids := make([]uint32, 0, len(r.groups))
	for id := range r.groups {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		g := r.groups[id]
		if g.name == "" || id == 0 || id > maxGroups {
			continue // its record is damaged
		}
		for uint32(len(e.groups)) < id-1 {
			e.groups = append(e.groups, nil)
		}
		t := e.ensureTopic(g.topic)
		st := newGroupState(id, t, g.name, g.since)
		e.groups = append(e.groups, st)
		t.groups = append(t.groups, st)
	}
	// Copied messages are older than all others.
	seqs := make([]uint64, 0, len(r.copies))
	for seq := range r.copies {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		c := r.copies[seq]
		buf := make([]byte, c.r.length)
		if _, err := e.segments[c.r.segment].file.ReadAt(buf, int64(c.r.offset)); err != nil {
			return err
		}
		p := reader{b: buf[recordHeader:]}
		p.copied()
		if x := p.routing(); !p.bad {
			only := map[uint32]bool{}
			for _, g := range c.groups {
				only[g.group] = true
			}
			r.place(c.r, x, func(g *groupState) bool { return only[g.id] || c.orphan })
		}
	}
	for _, seg := range r.segments {
		end := seg.end
		s := &scanner{seg: seg, expected: seg.base, damaged: func(damage, bool) {}, visit: func(en entry) error {
			if en.kind != kindPublish {
				return nil
			}
			if _, moved := r.copies[en.seq]; moved {
				return nil
			}
			p := reader{b: en.payload}
			if x := p.routing(); !p.bad {
				r.place(ref{seq: en.seq, segment: seg.id, offset: en.offset, length: en.length, priority: x.priority}, x, nil)
			}
			return nil
		}}
		if err := s.run(); err != nil {
			return err
		}
		seg.end = end
	}
	return nil
}

// place queues a message for every group that is not done with it.
func (r *recovery) place(m ref, x routing, belongs func(*groupState) bool) {
	e := r.e
	t := e.ensureTopic(string(x.topic))
	live := false
	if len(t.groups) == 0 {
		t.orphans.push(m)
		live = true
	}
	for _, g := range t.groups {
		rg := r.groups[g.id]
		if m.seq < g.since || rg.done.has(m.seq) || belongs != nil && !belongs(g) {
			continue
		}
		live = true
		m := m
		notBefore := x.notBefore
		if f := rg.fate[m.seq]; f != nil {
			g.tried.add(m.seq)
			if m.attempts = f.attempts; f.dead {
				g.dead = append(g.dead, deadRef{m, hashKey(string(x.key)), f.diedAt, f.reason})
				g.live.add(m.seq)
				continue
			}
			notBefore = max(notBefore, f.until)
		}
		g.arrive(m, hashKey(string(x.key)), notBefore, r.now)
	}
	if live {
		seg := e.segments[m.segment]
		seg.live++
		seg.liveBytes += int64(m.length)
		e.depth.Add(1)
		e.bytes.Add(int64(m.length))
	}
}

// corrupt reports damage.
func (e *engine) corrupt(seg *segment, d damage, what string) {
	e.stats.quarantined.Add(1)
	if h := e.o.Hooks; h != nil && h.Corrupt != nil {
		h.Corrupt(seg.name(), d.offset, d.length, fmt.Errorf("%w: %s", ErrCorrupt, what))
	}
}
