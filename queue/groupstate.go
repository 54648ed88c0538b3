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
//	dead    -> ready (redrive) | gone (purge)
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
	behind map[uint64]*refQueue // by key hash; present while a head exists
	behinN int

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
		heads: map[uint64]uint64{}, behind: map[uint64]*refQueue{}, wake: make(chan struct{}, 1)}
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
	g.queue(r, 0, now) // a delay of its own is checked when it is read
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
