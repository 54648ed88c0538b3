package queue

import (
	"container/heap"
	"time"
)

// groupState is what memory knows of one consumer group. All of it is guarded by engine.state.
//
// A message of the group is in exactly one place:
//
//	publish -> ready | delayed (NotBefore) | behind (another message of its key is not settled)
//	ready   -> leased (fetch) | gone (TTL)
//	leased  -> gone (ack) | delayed (nack) | ready (release, lease expired) | dead (term, attempts used up)
//	delayed -> ready (its time has come)
//	behind  -> ready | delayed (the one before it is gone or dead)
//	dead    -> ready | behind (redrive) | gone (purge)
//
// Of each key one message is the head: the oldest that is not dead, or the one in flight. When an older one comes back
// (redrive) while the head is in flight, it becomes the head as soon as that is over.
type groupState struct {
	id    uint32
	topic *topicState
	name  string
	since uint64
	o     GroupOptions

	ready  [10]refQueue
	readyN int
	turn   uint32 // fetched messages, for the turn of the oldest

	delayed delayHeap
	leases  map[uint64]*lease
	expiry  leaseHeap

	heads  map[uint64]uint64    // key hash of each message that heads its key, by message
	behind map[uint64]*refQueue // by key hash, in the order of numbers; present while a head exists
	behinN int
	later  map[uint64]int64 // until when those of behind are delayed that are

	dead []deadRef

	live  seqSet // every message that is not gone
	tried seqSet // those of live that were delivered before
	wake  chan struct{}
	idle  int // fetchers that wait

	oldestSeq uint64 // cache of the oldest ready message's time
	oldestAt  int64
}

type deadRef struct {
	r      ref
	key    uint64 // its hash, 0 for none
	at     int64
	reason string
}

// topicState is a topic: its groups, or, while it has none, the messages that wait for the first.
type topicState struct {
	name    string
	groups  []*groupState
	orphans refQueue
}

func newGroupState(id uint32, t *topicState, name string, since uint64) *groupState {
	o, _ := GroupOptions{}.withDefaults()
	return &groupState{id: id, topic: t, name: name, since: since, o: o, leases: map[uint64]*lease{},
		heads: map[uint64]uint64{}, behind: map[uint64]*refQueue{}, later: map[uint64]int64{},
		wake: make(chan struct{}, 1)}
}

// arrive takes in a message: new, recovered, or waiting for its first group.
func (g *groupState) arrive(r ref, key uint64, notBefore, now int64) {
	g.live.add(r.seq)
	if key != 0 {
		if q, busy := g.behind[key]; busy {
			if q == nil {
				q = &refQueue{}
				g.behind[key] = q
			}
			q.push(r)
			g.behinN++
			if notBefore > now {
				g.later[r.seq] = notBefore
			}
			return
		}
		g.behind[key] = nil
		g.heads[r.seq] = key
	}
	g.queue(r, notBefore, now)
}

func (g *groupState) queue(r ref, notBefore, now int64) {
	if notBefore > now {
		g.delayed.add(notBefore, r)
	} else {
		g.ready[r.priority].push(r)
		g.readyN++
	}
	g.signal()
}

// signal wakes one waiting fetcher; one that finds more than it takes, or leaves, passes the signal on.
func (g *groupState) signal() {
	if g.idle > 0 {
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
}

// leave is called when a message is gone or dead: the next of its key may go.
func (g *groupState) leave(seq uint64, now int64) {
	key, ok := g.heads[seq]
	if !ok {
		return
	}
	delete(g.heads, seq)
	q := g.behind[key]
	if q == nil {
		delete(g.behind, key)
		return
	}
	r, ok := q.pop()
	if !ok {
		delete(g.behind, key)
		return
	}
	g.behinN--
	if q.n == 0 {
		g.behind[key] = nil
	}
	g.heads[r.seq] = key
	until := g.later[r.seq]
	delete(g.later, r.seq)
	g.queue(r, until, now)
}

// back takes a message that was in flight in again; an older one of its key that came back meanwhile goes first.
func (g *groupState) back(r ref, until, now int64) {
	if key, ok := g.heads[r.seq]; ok {
		if q := g.behind[key]; q != nil && q.n > 0 {
			if first, _ := q.peek(); first.seq < r.seq {
				g.leave(r.seq, now)
				g.wait(r, key, until, now)
				return
			}
		}
	}
	g.queue(r, until, now)
}

// wait puts a message behind the head of its key.
func (g *groupState) wait(r ref, key uint64, until, now int64) {
	q := g.behind[key]
	if q == nil {
		q = &refQueue{}
		g.behind[key] = q
	}
	q.insert(r)
	g.behinN++
	if until > now {
		g.later[r.seq] = until
	}
}

// revive makes dead messages deliverable again, each before the later ones of its key unless one is in flight.
func (g *groupState) revive(dead []deadRef, now int64) {
	heads := map[uint64]uint64{} // the heads of their keys, by key
	for _, d := range dead {
		if d.key != 0 {
			heads[d.key] = 0
		}
	}
	if len(heads) > 0 {
		for seq, key := range g.heads {
			if _, ok := heads[key]; ok {
				heads[key] = seq
			}
		}
	}
	displaced := map[uint64]uint64{} // keys, by the head that has to make room
	for _, d := range dead {
		r := d.r
		r.attempts, r.redriven = 0, true
		head, keyed := heads[d.key]
		switch {
		case !keyed:
			g.queue(r, 0, now)
		case head == 0: // nobody of the key is here
			g.behind[d.key], g.heads[r.seq], heads[d.key] = nil, d.key, r.seq
			g.queue(r, 0, now)
		case r.seq > head || g.leases[head] != nil:
			g.wait(r, d.key, 0, now)
		default: // the head was waiting itself
			g.wait(r, d.key, 0, now)
			displaced[head] = d.key
		}
	}
	if len(displaced) == 0 {
		return
	}
	var out []timed
	take := func(at int64) func(ref) bool {
		return func(r ref) bool {
			_, gone := displaced[r.seq]
			if gone {
				out = append(out, timed{at, r})
			}
			return !gone
		}
	}
	for p := range g.ready {
		g.readyN -= g.ready[p].keep(take(0))
	}
	kept := g.delayed[:0]
	for _, t := range g.delayed {
		if take(t.at)(t.r) {
			kept = append(kept, t)
		}
	}
	g.delayed = kept
	heap.Init(&g.delayed)
	for _, t := range out {
		g.leave(t.r.seq, now) // the oldest of the key, one of dead, is the head now
		g.wait(t.r, displaced[t.r.seq], t.at, now)
	}
}

// take pops the next message to deliver: the first of the highest priority, every eighth time the oldest of all.
func (g *groupState) take() (ref, bool) {
	if g.readyN == 0 {
		return ref{}, false
	}
	best := -1
	if g.turn++; g.turn%8 == 0 {
		oldest := ^uint64(0)
		for p := range g.ready {
			if r, ok := g.ready[p].peek(); ok && r.seq < oldest {
				oldest, best = r.seq, p
			}
		}
	} else {
		for p := 9; p >= 0 && best < 0; p-- {
			if g.ready[p].n > 0 {
				best = p
			}
		}
	}
	g.readyN--
	return g.ready[best].pop()
}

// due moves delayed messages whose time has come to ready.
func (g *groupState) due(now int64) {
	for len(g.delayed) > 0 && g.delayed[0].at <= now {
		t := heap.Pop(&g.delayed).(timed)
		g.ready[t.r.priority].push(t.r)
		g.readyN++
	}
}

// next is the time until something becomes ready by itself; ok is false when nothing will.
func (g *groupState) next(wall, mono int64) (d time.Duration, ok bool) {
	if len(g.delayed) > 0 {
		d, ok = time.Duration(g.delayed[0].at-wall), true
	}
	if len(g.expiry) > 0 {
		if e := time.Duration(g.expiry[0].deadline - mono); !ok || e < d {
			d, ok = e, true
		}
	}
	return max(d, 0), ok
}

func (g *groupState) lease(r ref, token uint64, deadline int64) {
	l := &lease{r: r, token: token, deadline: deadline}
	g.leases[r.seq] = l
	heap.Push(&g.expiry, l)
}

func (g *groupState) unlease(l *lease) {
	heap.Remove(&g.expiry, l.index)
	delete(g.leases, l.r.seq)
}

func (g *groupState) extend(l *lease, deadline int64) {
	if deadline > l.deadline {
		l.deadline = deadline
		heap.Fix(&g.expiry, l.index)
	}
}

func (g *groupState) exhausted(attempts uint16) bool {
	return g.o.MaxDeliveries > 0 && int(attempts) >= g.o.MaxDeliveries
}
