package queue

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/wire"
)

// logGroup is a [GroupDriver] on the embedded log.
type logGroup struct {
	e *engine
	g *groupState
}

const (
	maxGroups    = 10_000
	maxRunLength = 1 << 20 // of messages read at once
)

func (e *engine) Group(ctx context.Context, topic, name string, o GroupOptions) (GroupDriver, error) {
	if name == "" {
		return nil, fmt.Errorf("queue: group name is empty")
	}
	e.state.Lock()
	t := e.ensureTopic(topic)
	for _, g := range t.groups {
		if g.name == name {
			g.o = o
			e.state.Unlock()
			return &logGroup{e, g}, nil
		}
	}
	if len(e.groups) >= maxGroups {
		e.state.Unlock()
		return nil, fmt.Errorf("queue: more than %d groups", maxGroups)
	}
	// Under both locks the group's first message is exact: what is in the log so far is not for it, unless it is the
	// topic's first group.
	e.mu.Lock()
	since := e.nextSeq
	e.mu.Unlock()
	if len(t.groups) == 0 {
		since = 0
	}
	g := newGroupState(uint32(len(e.groups)+1), t, name, since)
	g.o = o
	e.groups = append(e.groups, g)
	t.groups = append(t.groups, g)
	w, err := e.note(kindGroups, true, func(b []byte) []byte { return e.appendGroups(b) })
	if err != nil { // there is no such group: the next attempt must not find one
		e.groups, t.groups = e.groups[:len(e.groups)-1], t.groups[:len(t.groups)-1]
		e.state.Unlock()
		return nil, err
	}
	if since == 0 {
		e.adopt(g)
	}
	e.state.Unlock()
	if err := w.wait(ctx); err != nil {
		return nil, err
	}
	return &logGroup{e, g}, nil
}

// adopt gives a topic's first group the messages that were published before it; e.state is held.
func (e *engine) adopt(g *groupState) {
	now := time.Now().UnixNano()
	for r, ok := g.topic.orphans.pop(); ok; r, ok = g.topic.orphans.pop() {
		at := e.where(r)
		key, notBefore := uint64(0), int64(0)
		buf := make([]byte, at.length)
		if _, err := e.segments[at.segment].file.ReadAt(buf, int64(at.offset)); err == nil {
			p := reads(buf[recordHeader:])
			if kind(buf[8]&^kindContinues) == kindCopy {
				p.copied()
			}
			if x := p.routing(); !p.Bad {
				key, notBefore = hashKey(string(x.key)), x.notBefore
			}
		}
		g.arrive(r, key, notBefore, now)
	}
	g.topic.orphans = refQueue{}
}

// groupsRecord is the record with which every segment begins; e.state is held.
func (e *engine) groupsRecord(b []byte) []byte {
	start := len(b)
	return closeRecord(e.appendGroups(openRecord(b, kindGroups)), start)
}

func (e *engine) appendGroups(b []byte) []byte {
	gs := make([]groupRecord, 0, len(e.groups))
	for _, g := range e.groups {
		if g != nil {
			gs = append(gs, groupRecord{g.id, g.topic.name, g.name, g.since})
		}
	}
	return appendGroups(b, gs)
}

func (e *engine) mono() int64 { return int64(time.Since(e.start)) }

func (d *logGroup) Fetch(ctx context.Context, max int) ([]*Delivery, error) {
	e, g := d.e, d.g
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		select {
		case <-e.stop:
			return nil, fmt.Errorf("fetch: %w", ErrClosed)
		default:
		}
		e.state.Lock()
		refs, tokens, deadline, err := e.hand(g, max)
		if err != nil {
			e.state.Unlock()
			return nil, err
		}
		if len(refs) == 0 {
			g.idle++
			wait, ok := g.next(time.Now().UnixNano(), e.mono())
			e.state.Unlock()
			var tick <-chan time.Time
			if ok {
				if timer == nil {
					timer = time.NewTimer(wait)
				} else {
					timer.Reset(wait)
				}
				tick = timer.C
			}
			select {
			case <-g.wake:
			case <-tick:
			case <-ctx.Done():
			case <-e.stop:
			}
			e.state.Lock()
			g.idle--
			if g.readyN > 0 || ctx.Err() != nil {
				g.signal() // somebody else should look
			}
			e.state.Unlock()
			continue
		}
		if g.readyN > 0 || g.idle > 0 { // more for others, or a lease whose end they must wait for
			g.signal()
		}
		e.state.Unlock()
		ds := e.read(g, refs, tokens, deadline)
		if len(ds) > 0 {
			e.stats.delivered.Add(int64(len(ds)))
			return ds, nil
		}
	}
}

// hand leases up to max messages; e.state is held. Their segments are pinned until read has read them.
func (e *engine) hand(g *groupState, max int) (refs []ref, tokens uint64, deadline int64, err error) {
	now := e.mono()
	e.expire(g, now)
	g.due(time.Now().UnixNano())
	if g.readyN == 0 {
		return nil, 0, 0, nil
	}
	n := min(max, g.readyN)
	refs = make([]ref, 0, n)
	deadline = after(now, g.o.Lease)
	tokens = e.tokens + 1
	for range n {
		r, _ := g.take()
		r.attempts++
		e.tokens++
		g.lease(r, e.tokens, deadline)
		g.tried.add(r.seq)
		r = e.where(r)
		refs = append(refs, r)
		e.segments[r.segment].pins++
	}
	_, err = e.note(kindLease, false, func(b []byte) []byte { return appendSeqs(b, g.id, refs) })
	if err != nil {
		for _, r := range refs { // the log has failed or is full: hand out nothing that is not counted
			l := g.leases[r.seq]
			g.unlease(l)
			l.r.attempts--
			g.back(l.r, 0, 0)
			e.segments[r.segment].pins--
		}
		return nil, 0, 0, err
	}
	return refs, tokens, deadline, nil
}

func appendSeqs(b []byte, group uint32, refs []ref) []byte {
	b = binary.AppendUvarint(b, uint64(group))
	b = binary.AppendUvarint(b, uint64(len(refs)))
	for _, r := range refs {
		b = binary.AppendUvarint(b, r.seq)
	}
	return b
}

// expire takes messages back whose lease has ended; e.state is held.
func (e *engine) expire(g *groupState, now int64) {
	for len(g.expiry) > 0 && g.expiry[0].deadline <= now {
		l := g.expiry[0]
		g.unlease(l)
		e.stats.expired.Add(1)
		if g.exhausted(l.r.attempts) {
			_, _ = e.bury(g, l.r, "max deliveries", false)
		} else {
			g.back(l.r, 0, now)
		}
	}
}

// bury moves a message to the dead letters with one record; e.state is held.
func (e *engine) bury(g *groupState, r ref, reason string, wait bool) (*waiter, error) {
	if len(reason) > 256 {
		reason = reason[:256]
	}
	now := time.Now().UnixNano()
	w, err := e.note(kindDead, wait, func(b []byte) []byte {
		b = binary.AppendUvarint(b, uint64(g.id))
		b = binary.AppendUvarint(b, r.seq)
		b = binary.AppendUvarint(b, uint64(now))
		b = binary.AppendUvarint(b, uint64(r.attempts))
		return wire.AppendString(b, reason)
	})
	if err != nil {
		g.back(r, 0, 0)
		return nil, err
	}
	g.dead = append(g.dead, deadRef{r, g.heads[r.seq], now, reason})
	g.leave(r.seq, now)
	e.stats.dead.Add(1)
	return w, nil
}

// gone forgets a message of a group, and its place in the log when it was the last group; e.state is held.
func (e *engine) gone(g *groupState, r ref) {
	if !g.live.remove(r.seq) {
		return
	}
	g.tried.remove(r.seq)
	g.leave(r.seq, time.Now().UnixNano())
	for _, o := range g.topic.groups {
		if o.live.has(r.seq) {
			return
		}
	}
	at := e.where(r)
	delete(e.moved, r.seq)
	if seg := e.segments[at.segment]; seg != nil {
		seg.live--
		seg.liveBytes -= int64(at.length)
		if seg.live == 0 {
			e.kickCleaner()
		}
	}
	e.depth.Add(-1)
	e.bytes.Add(-int64(at.length))
	if e.o.MaxDepth > 0 || e.o.MaxBytes > 0 {
		e.mu.Lock()
		e.room.Broadcast()
		e.mu.Unlock()
	}
}
