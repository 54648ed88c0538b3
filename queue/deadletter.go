package queue

import (
	"context"
	"time"
)

func (d *logGroup) Dead(ctx context.Context, max int) ([]DeadLetter, error) {
	e, g := d.e, d.g
	e.state.Lock()
	e.expire(g, e.mono())
	n := min(max, len(g.dead))
	dead := append([]deadRef(nil), g.dead[:n]...)
	at := make([]ref, n)
	for i := range dead {
		at[i] = dead[i].r
	}
	e.pin(at)
	e.state.Unlock()
	letters := make([]DeadLetter, n)
	e.readPinned(at, func(i int, m Message, published time.Time, intact bool) {
		letters[i] = DeadLetter{Message: m, Published: published, Seq: at[i].seq, Attempts: int(dead[i].r.attempts),
			Reason: dead[i].reason, Died: time.Unix(0, dead[i].at)}
		if !intact {
			letters[i].Reason += damagedOnDisk
		}
	})
	return letters, ctx.Err()
}

func (d *logGroup) Redrive(ctx context.Context, max int) (int, error) {
	return d.clear(ctx, max, kindRedrive, func(dead []deadRef) { d.g.revive(dead, time.Now().UnixNano()) })
}

func (d *logGroup) PurgeDead(ctx context.Context, max int) (int, error) {
	return d.clear(ctx, max, kindDone, func(dead []deadRef) {
		for i := range dead {
			d.e.gone(d.g, dead[i].r)
		}
	})
}

// clear takes up to max dead letters out with one record, and does to them what the record says.
func (d *logGroup) clear(ctx context.Context, max int, k kind, do func([]deadRef)) (int, error) {
	e, g := d.e, d.g
	e.state.Lock()
	n := min(max, len(g.dead))
	if n <= 0 {
		e.state.Unlock()
		return 0, nil
	}
	refs := make([]ref, n)
	for i := range refs {
		refs[i] = g.dead[i].r
	}
	w, err := e.note(k, true, func(b []byte) []byte { return appendSeqs(b, g.id, refs) })
	if err != nil {
		e.state.Unlock()
		return 0, err
	}
	cleared := g.dead[:n:n]
	g.dead = append([]deadRef(nil), g.dead[n:]...)
	do(cleared)
	e.state.Unlock()
	return n, w.wait(ctx)
}

func (d *logGroup) Lag(ctx context.Context) (Lag, error) {
	d.e.state.Lock()
	defer d.e.state.Unlock()
	return d.e.lag(d.g), nil
}

// lag is also what Stats shows; e.state is held.
func (e *engine) lag(g *groupState) Lag {
	e.expire(g, e.mono())
	g.due(time.Now().UnixNano())
	l := Lag{Ready: g.readyN, Delayed: len(g.delayed) + g.behinN, InFlight: len(g.leases), Dead: len(g.dead)}
	oldest := ref{seq: ^uint64(0)}
	for p := range g.ready {
		if r, ok := g.ready[p].peek(); ok && r.seq < oldest.seq {
			oldest = r
		}
	}
	if l.Ready == 0 {
		return l
	}
	if oldest.seq != g.oldestSeq {
		g.oldestSeq, g.oldestAt = oldest.seq, e.publishedAt(e.where(oldest))
	}
	l.OldestAge = max(0, time.Duration(time.Now().UnixNano()-g.oldestAt))
	return l
}

// publishedAt reads a message's time from disk: memory does not hold it.
func (e *engine) publishedAt(r ref) int64 {
	seg := e.segments[r.segment]
	buf := make([]byte, min(int(r.length), 4096))
	if _, err := seg.file.ReadAt(buf, int64(r.offset)); err != nil {
		return time.Now().UnixNano()
	}
	p := reads(buf[recordHeader:])
	if kind(buf[8]&^kindContinues) == kindCopy {
		p.copied()
	}
	p.Byte()
	return int64(p.Uvarint())
}

func (e *engine) Stats() Stats {
	s := &e.stats
	out := Stats{Published: s.published.Load(), Duplicates: s.duplicates.Load(), Rejected: s.rejected.Load(),
		Delivered: s.delivered.Load(),
		Acked:     s.acked.Load(), Retried: s.retried.Load(), LeaseExpired: s.expired.Load(),
		DeadLettered: s.dead.Load(),
		TTLExpired:   s.ttl.Load(), Quarantined: s.quarantined.Load(), Commits: s.commits.Load()}
	e.mu.Lock()
	files := 1 + len(e.sealed) + len(e.free)
	if e.next != nil {
		files++
	}
	e.mu.Unlock()
	out.LogBytes, out.LiveBytes = int64(files)*e.o.SegmentBytes, e.bytes.Load()
	e.state.Lock()
	defer e.state.Unlock()
	for _, g := range e.groups {
		if g == nil {
			continue
		}
		l := e.lag(g)
		out.Groups = append(out.Groups, GroupStats{Topic: g.topic.name, Group: g.name, Ready: int64(l.Ready),
			Delayed:  int64(l.Delayed),
			InFlight: int64(l.InFlight), Dead: int64(l.Dead), OldestAge: l.OldestAge.Seconds()})
	}
	return out
}
