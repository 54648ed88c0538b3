package queue

import (
	"maps"
	"slices"
)

// recovered is the fate of one group's messages.
type recovered struct {
	groupRecord
	done seqSet
	fate map[uint64]*fate
}

// fate is what is known of a message that was delivered at least once.
type fate struct {
	attempts uint16
	redriven bool
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

// apply takes one record of the first reading.
func (r *recovery) apply(seg *segment, en entry) error {
	p := reads(en.payload)
	group := func() *recovered {
		id := uint32(p.Uvarint())
		g := r.groups[id]
		if g == nil {
			g = &recovered{groupRecord: groupRecord{id: id}, fate: map[uint64]*fate{}}
			r.groups[id] = g
		}
		return g
	}
	each := func(f func(seq uint64)) {
		for n := p.Uvarint(); n > 0 && !p.Bad; n-- {
			f(p.Uvarint())
		}
	}
	switch en.kind {
	case kindPublish:
		if x := p.routing(); !p.Bad && len(x.id) > 0 && r.now-x.published <= r.e.seen.window {
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
		seq := p.Uvarint()
		g.of(seq).until = int64(p.Uvarint())
	case kindDead:
		g := group()
		f := g.of(p.Uvarint())
		f.dead, f.diedAt = true, int64(p.Uvarint())
		f.attempts = uint16(p.Uvarint())
		f.reason = p.String()
	case kindRedrive:
		g := group()
		each(func(seq uint64) { *g.of(seq) = fate{redriven: true} })
	case kindCopy:
		seq, orphan, cs := p.copied()
		if p.Bad {
			break
		}
		x := p.routing()
		r.copies[seq] = copyOf{ref{seq: seq, segment: seg.id, offset: en.offset, length: en.length,
			priority: x.priority}, orphan, cs}
		for _, c := range cs {
			if g := r.groups[c.group]; g != nil {
				*g.of(seq) = fate{c.attempts, c.redriven, c.until, c.dead, c.diedAt, c.reason}
			}
		}
	case kindSeen:
		for n := p.Uvarint(); n > 0 && !p.Bad; n-- {
			var k dedupeKey
			copy(k[:], p.Take(uint64(len(k))))
			at := seenAt{seq: p.Uvarint(), time: int64(p.Uvarint())}
			if !p.Bad && r.now-at.time <= r.e.seen.window {
				r.e.seen.put(k, at, en.seq)
			}
		}
	}
	return nil // a record that passes its checksum and does not parse is from a newer version: left alone
}

// messages is the second reading.
func (r *recovery) messages() error {
	e := r.e
	for _, id := range slices.Sorted(maps.Keys(r.groups)) {
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
	for _, seq := range slices.Sorted(maps.Keys(r.copies)) {
		c := r.copies[seq]
		buf := make([]byte, c.r.length)
		if _, err := e.segments[c.r.segment].file.ReadAt(buf, int64(c.r.offset)); err != nil {
			return err
		}
		p := reads(buf[recordHeader:])
		p.copied()
		if x := p.routing(); !p.Bad {
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
			p := reads(en.payload)
			if x := p.routing(); !p.Bad {
				r.place(ref{seq: en.seq, segment: seg.id, offset: en.offset, length: en.length, priority: x.priority},
					x, nil)
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
			if m.attempts, m.redriven = f.attempts, f.redriven; f.dead {
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
