package queue

import (
	"container/heap"
	"context"
	"time"
)

// look is a message of a group with its state, before it is read.
type look struct {
	r     ref
	state string
	until time.Time
}

func (d *logGroup) Peek(ctx context.Context, max int) ([]Waiting, error) {
	e, g := d.e, d.g
	e.state.Lock()
	looks := e.looks(g, max)
	refs := make([]ref, len(looks))
	for i := range looks {
		refs[i] = looks[i].r
	}
	e.pin(refs)
	e.state.Unlock()
	out := make([]Waiting, len(looks))
	e.readPinned(refs, func(i int, m Message, published time.Time, intact bool) {
		out[i] = Waiting{Message: m, Published: published, Seq: refs[i].seq, Attempts: int(refs[i].attempts),
			State: looks[i].state, Until: looks[i].until}
		if !intact {
			out[i].State += damagedOnDisk
		}
	})
	return out, ctx.Err()
}

const damagedOnDisk = " (damaged on disk)"

// pin makes the refs say where their messages are now, and keeps these segments; e.state is held. readPinned lets them
// go.
func (e *engine) pin(refs []ref) {
	for i := range refs {
		refs[i] = e.where(refs[i])
		e.segments[refs[i].segment].pins++
	}
}

// readPinned reads each message of pinned refs without holding anybody up.
func (e *engine) readPinned(refs []ref, each func(i int, m Message, published time.Time, intact bool)) {
	for i, r := range refs {
		e.state.Lock()
		seg := e.segments[r.segment]
		e.state.Unlock()
		buf := make([]byte, r.length)
		if _, err := seg.file.ReadAt(buf, int64(r.offset)); err == nil {
			if m, published, ok := decodeMessage(buf, seg.epoch); ok {
				each(i, m, time.Unix(0, published), true)
				continue
			}
		}
		each(i, Message{}, time.Time{}, false)
	}
	e.state.Lock()
	for _, r := range refs {
		e.segments[r.segment].pins--
	}
	e.state.Unlock()
	e.kickCleaner()
}

// looks lists up to max messages; e.state is held.
func (e *engine) looks(g *groupState, max int) (out []look) {
	now := e.mono()
	e.expire(g, now)
	g.due(time.Now().UnixNano())
	add := func(r ref, state string, until time.Time) {
		if len(out) < max {
			out = append(out, look{r, state, until})
		}
	}
	for p := 9; p >= 0; p-- {
		g.ready[p].some(max-len(out), func(r ref) { add(r, "ready", time.Time{}) })
	}
	for _, t := range g.delayed {
		add(t.r, "delayed", time.Unix(0, t.at))
	}
	for _, q := range g.behind {
		if q != nil {
			q.some(max-len(out), func(r ref) {
				until := time.Time{}
				if at, ok := g.later[r.seq]; ok {
					until = time.Unix(0, at)
				}
				add(r, "behind", until)
			})
		}
	}
	for _, l := range g.expiry {
		add(l.r, "in flight", time.Now().Add(time.Duration(l.deadline-now)))
	}
	return out
}

// some calls f for the first n refs in order.
func (q *refQueue) some(n int, f func(ref)) {
	for i, c := range q.chunks {
		if i == 0 {
			c = c[q.head:]
		}
		for j := range c {
			if n--; n < 0 {
				return
			}
			f(c[j])
		}
	}
}

// purgeAtOnce is how many messages one record settles.
const purgeAtOnce = 4096

func (d *logGroup) Purge(ctx context.Context) (n int, err error) {
	e, g := d.e, d.g
	last := (*waiter)(nil)
	e.state.Lock()
	until := e.nextPublished() // what comes while we purge stays
	e.state.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		e.state.Lock()
		e.expire(g, e.mono())
		refs := g.waiting(purgeAtOnce, until)
		if len(refs) == 0 {
			e.state.Unlock()
			break
		}
		w, err := e.note(kindDone, true, func(b []byte) []byte { return appendSeqs(b, g.id, refs) })
		if err != nil {
			e.state.Unlock()
			return n, err
		}
		g.drop(refs)
		for _, r := range refs {
			e.gone(g, r)
		}
		e.state.Unlock()
		n, last = n+len(refs), w
		if err := last.wait(ctx); err != nil {
			return n, err
		}
	}
	return n, nil
}

// nextPublished is the number that the next message will have, or less; e.state is held.
func (e *engine) nextPublished() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.nextSeq
}

// waiting lists messages older than until that are neither in flight nor dead.
func (g *groupState) waiting(max int, until uint64) (refs []ref) {
	add := func(r ref) {
		if len(refs) < max && r.seq < until {
			refs = append(refs, r)
		}
	}
	for _, q := range g.behind { // before their heads, which would let them go
		if q != nil {
			q.each(func(r *ref) { add(*r) })
		}
		if len(refs) >= max {
			return refs
		}
	}
	for p := range g.ready {
		g.ready[p].some(max, add)
	}
	for _, t := range g.delayed {
		add(t.r)
	}
	return refs
}

// drop takes messages out of where they wait.
func (g *groupState) drop(refs []ref) {
	gone := make(map[uint64]bool, len(refs))
	for _, r := range refs {
		gone[r.seq] = true
	}
	keep := func(r ref) bool { return !gone[r.seq] }
	for key, q := range g.behind {
		if q == nil {
			continue
		}
		g.behinN -= q.keep(func(r ref) bool {
			if gone[r.seq] {
				delete(g.later, r.seq)
			}
			return !gone[r.seq]
		})
		if q.n == 0 {
			g.behind[key] = nil
		}
	}
	for p := range g.ready {
		g.readyN -= g.ready[p].keep(keep)
	}
	kept := g.delayed[:0]
	for _, t := range g.delayed {
		if keep(t.r) {
			kept = append(kept, t)
		}
	}
	clear(g.delayed[len(kept):])
	g.delayed = kept
	heap.Init(&g.delayed)
}
