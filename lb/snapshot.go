package lb

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/health"
	"github.com/tierkit/tierkit/internal/placement"
)

// snapshot is what picks read: immutable, swapped as a whole.
type snapshot struct {
	all    []*Backend // in the pool, by ID
	usable []*Backend // may be picked
	byID   map[string]*Backend
	picker Picker // nil when usable is empty
	panic  bool
	closed bool
	plain  bool // every backend speaks HTTP/1.1 without TLS
}

// rebuild makes the snapshot from the backends' states. b.mu is held.
func (b *Balancer) rebuild(now time.Time) {
	if b.closed {
		return
	}
	s := &snapshot{byID: make(map[string]*Backend, len(b.backends)), plain: true}
	ramping := false
	for id, be := range b.backends {
		s.all = append(s.all, be)
		s.byID[id] = be
		s.plain = s.plain && be.ep.Load().Scheme == "http"
		state := StateUp
		switch {
		case be.drained:
			state = StateDraining
		case be.ejected && now.Before(be.until):
			state = StateEjected
		case be.machine.State() == health.Down:
			state = StateDown
		}
		b.setState(be, state)
		w, more := be.ramp(now, b.o.SlowStart)
		be.weight.Store(math.Float64bits(w))
		ramping = ramping || more && state == StateUp
	}
	slices.SortFunc(s.all, func(x, y *Backend) int { return cmp.Compare(x.id, y.id) })
	s.usable, s.panic = b.choose(s.all)
	replaced := make([]int, len(s.all)) // followers of the picker until now
	for i, be := range s.all {
		replaced[i] = be.following.count()
	}
	if s.panic {
		b.log.Warn("panic", "lb: too few backends are healthy, health is ignored", "backends", len(s.all))
	} else {
		b.log.Clear("panic", "lb: enough backends are healthy again")
	}
	if len(s.usable) > 0 {
		if b.prober != nil {
			s.picker = b.prober.adopt(slices.Clone(s.usable))
		} else {
			s.picker = b.newPicker(slices.Clone(s.usable))
		}
	}
	b.snap.Store(s)
	b.resizeQueue()
	for i, be := range s.all {
		be.following.forget(replaced[i])
	}
	b.queue.wakeAll()
	if ramping {
		b.later(b.o.SlowStart / 20)
	}
}

// newPicker asks the policy for a picker. If the policy panics, or returns none, two choices decide.
func (b *Balancer) newPicker(bs []*Backend) (p Picker) {
	if b.call("Policy.Picker", func() { p = b.o.Policy.Picker(bs) }) != nil || p == nil {
		return powerOfTwo{}.Picker(bs)
	}
	return p
}

// later rebuilds after d, once, for the next step of a ramp.
func (b *Balancer) later(d time.Duration) {
	d = max(d, 10*time.Millisecond)
	if b.ramping != nil {
		b.ramping.Reset(d)
		return
	}
	b.ramping = time.AfterFunc(d, func() {
		b.mu.Lock()
		b.rebuild(time.Now())
		b.mu.Unlock()
	})
}

// ramp is the weight now: from a tenth to all of it over the slow start.
func (be *Backend) ramp(now time.Time, length time.Duration) (weight float64, more bool) {
	weight = be.ep.Load().Weight
	if length <= 0 || be.rampFrom.IsZero() {
		return weight, false
	}
	part := float64(now.Sub(be.rampFrom)) / float64(length)
	if part >= 1 {
		be.rampFrom = time.Time{}
		return weight, false
	}
	return weight * max(0.1, part), true
}

// choose applies priorities, zones and the panic threshold:
//   - the first priority whose healthy share reaches the threshold serves, with its healthy backends,
//   - of these the local zone's alone, while at least half of the zone is healthy,
//   - when no priority reaches it, health is ignored in the first (panic): many failed checks at once are more
//     often a broken check or network than broken servers, and the few that are left could not carry the load.
func (b *Balancer) choose(all []*Backend) (usable []*Backend, panicked bool) {
	var pool []*Backend
	for _, be := range all {
		if be.State() != StateDraining {
			pool = append(pool, be)
		}
	}
	if len(pool) == 0 {
		return nil, false
	}
	byPriority := map[int][]*Backend{}
	var levels []int
	for _, be := range pool {
		p := be.ep.Load().Priority
		if byPriority[p] == nil {
			levels = append(levels, p)
		}
		byPriority[p] = append(byPriority[p], be)
	}
	slices.Sort(levels)
	threshold := b.o.PanicThreshold
	for _, p := range levels {
		level := byPriority[p]
		up := healthy(level)
		need := threshold
		if len(level) < 3 {
			need = 0
		}
		if len(up) > 0 && float64(len(up)) >= need*float64(len(level)) {
			return b.local(level, up), false
		}
	}
	if threshold < 0 { // never ignore health
		return nil, false
	}
	if up := healthy(pool); threshold == 0 && len(up) > 0 {
		return up, false
	}
	return byPriority[levels[0]], true
}

func healthy(bs []*Backend) []*Backend {
	var up []*Backend
	for _, be := range bs {
		if be.State() == StateUp {
			up = append(up, be)
		}
	}
	return up
}

func (b *Balancer) local(level, up []*Backend) []*Backend {
	if b.o.Zone == "" {
		return up
	}
	in := func(bs []*Backend) (near []*Backend) {
		for _, be := range bs {
			if be.ep.Load().Zone == b.o.Zone {
				near = append(near, be)
			}
		}
		return near
	}
	if near := in(up); len(near) > 0 && 2*len(near) >= len(in(level)) {
		return near
	}
	return up
}

// of keeps the Size endpoints that score highest for this balancer's ID: rendezvous hashing, so that one endpoint more
// or less changes few subsets by one.
func (s Subset) of(all map[string]Endpoint) map[string]Endpoint {
	if s.Size <= 0 || len(all) <= s.Size {
		return all
	}
	seed := placement.HashString(s.ID)
	ids := make([]string, 0, len(all))
	for id := range all {
		ids = append(ids, id)
	}
	score := func(id string) uint64 { return placement.HashUint64(seed ^ placement.HashString(id)) }
	slices.SortFunc(ids, func(x, y string) int {
		return cmp.Or(cmp.Compare(score(y), score(x)), cmp.Compare(x, y))
	})
	out := make(map[string]Endpoint, s.Size)
	for _, id := range ids[:s.Size] {
		out[id] = all[id]
	}
	return out
}

// queue holds the requests that wait for a backend below its limit, first come first served.
type queue struct {
	limit int
	mu    sync.Mutex // guards wait
	wait  []chan struct{}
	size  atomic.Int64
}

// resizeQueue lets a share of the backends' adaptive limits wait, where they have such, and those who may go now try.
func (b *Balancer) resizeQueue() {
	a := b.o.Adaptive
	if a == nil || !a.PerBackend {
		return
	}
	sum, room := int64(0), int64(0)
	for _, be := range b.snap.Load().usable {
		limit := be.limiter.limit.Load()
		sum, room = sum+limit, room+max(0, limit-be.inFlight.Load())
	}
	b.queue.mu.Lock()
	b.queue.limit = int(a.Queue * float64(sum))
	b.queue.mu.Unlock()
	for ; room > 0 && b.queue.size.Load() > 0; room-- {
		b.queue.wake()
	}
}

// join returns a channel that is signalled when trying again may help; nil when the queue is full.
func (q *queue) join() chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.wait) >= q.limit {
		return nil
	}
	ch := make(chan struct{}, 1)
	q.wait = append(q.wait, ch)
	q.size.Store(int64(len(q.wait)))
	return ch
}

// leave takes ch out; when it had been signalled already the signal goes to the next.
func (q *queue) leave(ch chan struct{}) {
	q.mu.Lock()
	i := slices.Index(q.wait, ch)
	if i >= 0 {
		q.wait = slices.Delete(q.wait, i, i+1)
		q.size.Store(int64(len(q.wait)))
	}
	q.mu.Unlock()
	if i < 0 {
		select {
		case <-ch:
			q.wake()
		default:
		}
	}
}

// wake signals the first in line.
func (q *queue) wake() {
	if q.size.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.wait) > 0 {
		q.wait[0] <- struct{}{}
		q.wait = q.wait[1:]
		q.size.Store(int64(len(q.wait)))
	}
}

func (q *queue) wakeAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ch := range q.wait {
		ch <- struct{}{}
	}
	q.wait = nil
	q.size.Store(0)
}
