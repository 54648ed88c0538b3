package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tierkit/tierkit/internal/placement"
)

// failed counts an error of a server, unless it is the caller's.
func (r *Ring) failed(ctx context.Context, s *ringServer) {
	if ctx.Err() != nil {
		return
	}
	r.stats.errors.Add(1)
	if s.fails.Add(1) >= int64(r.o.Failures) {
		r.takeOut(s)
	}
}

// takeOut sends a server's keys to the gutter. First tiers are emptied and not trusted meanwhile: from then on they are
// trusted without this server's word, so what they have of it must be gone, and loads under way must not bring it back.
func (r *Ring) takeOut(s *ringServer) {
	r.flushing.Add(1) // before out, see Trusted
	defer r.flushing.Add(-1)
	if !s.out.CompareAndSwap(false, true) {
		return
	}
	s.fails.Store(0)
	r.stats.outs.Add(1)
	r.mu.Lock()
	ws := slices.Collect(maps.Values(r.watchers))
	r.mu.Unlock()
	for _, w := range ws {
		w.flush()
	}
}

// Trusted implements [Remote].
func (r *Ring) Trusted() bool {
	for _, s := range r.layout.Load().trusted {
		if !s.out.Load() && !s.remote.Trusted() {
			return false
		}
	}
	return r.flushing.Load() == 0 // after out was read: who leaves is counted before it is out
}

// trusting lists the servers whose changes a first tier has to hear of.
func (r *Ring) trusting(l *layout) *layout {
	if r.gutter != nil {
		l.trusted = append(l.trusted, r.gutter)
	}
	for _, t := range []*placement.Table{l.reads, l.old} {
		if t != nil {
			for _, n := range t.Nodes() {
				if s := l.servers[n.ID]; !slices.Contains(l.trusted, s) {
					l.trusted = append(l.trusted, s)
				}
			}
		}
	}
	return l
}

// watch looks at the servers, and takes the steps of a move.
func (r *Ring) watch(ctx context.Context) {
	defer close(r.done)
	tick := time.NewTicker(r.o.Probe)
	defer tick.Stop()
	for {
		for _, s := range r.all() {
			r.look(ctx, s)
		}
		r.step(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Ring) all() []*ringServer {
	all := slices.Collect(maps.Values(r.layout.Load().servers))
	if r.gutter != nil {
		all = append(all, r.gutter)
	}
	return all
}

// look moves a server between in and out:
//
//	in  -> out  after Failures errors in a row (takeOut), or as many looks that found it not trusted
//	out -> in   trusted, out for Rest, and nothing is owed to it any more
//
// A server that has just come gets Rest to become trusted first.
func (r *Ring) look(ctx context.Context, s *ringServer) {
	trusted := s.remote.Trusted()
	now := time.Now()
	if trusted {
		s.proven = true
	}
	if !s.out.Load() {
		if trusted {
			s.doubted = 0
			r.repay(ctx, s)
		} else if s.doubted++; s.doubted >= max(r.o.Failures, 1) && (s.proven || now.Sub(s.since) > r.o.Rest) {
			r.takeOut(s)
		}
		return
	}
	if s.doubted >= 0 { // the first look since it is out
		s.since, s.doubted = now, -1
	}
	if trusted && now.Sub(s.since) >= r.o.Rest && !r.repay(ctx, s) {
		s.debt.mu.Lock()
		defer s.debt.mu.Unlock()
		if len(s.debt.keys) == 0 {
			s.doubted = 0
			s.fails.Store(0)
			s.inAt.Store(&now)
			s.out.Store(false)
		}
	}
}

// Watch implements [Remote].
func (r *Ring) Watch(drop func(key string), flush func()) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.nextID
	r.nextID++
	w := ringWatcher{drop, flush}
	r.watchers[id] = w
	for _, s := range r.all() {
		s.stops[id] = s.remote.Watch(w.drop, w.flush)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, id)
		for _, s := range r.all() {
			if stop := s.stops[id]; stop != nil {
				stop()
				delete(s.stops, id)
			}
		}
	}
}

// ringMove is a change of the servers under way.
type ringMove struct {
	began time.Time
	to    *layout
	step  int
}

// SetServers changes the servers; those that stay are recognized by their names. All processes must call it with the
// same servers within Overlap of each other. Then, without a stampede and without a stale value:
//
//	at once       changes go to where a key is and to where it will be
//	Overlap       reads go to the new place, which takes what it lacks from the old one
//	2 x Overlap   the new place loads what it lacks
//	4 x Overlap   nothing goes to the old place: servers that are not in the list may be closed, and Moving is false
//
// A server may be removed while it is out; its keys' changes then return [ErrServerOut] until the move ends. It returns
// an error while another move is under way.
func (r *Ring) SetServers(servers map[string]Remote) error {
	if len(servers) == 0 {
		return errors.New("cache: Ring.SetServers: no servers")
	}
	table, err := ringTable(servers)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("cache: Ring.SetServers: %w", ErrClosed)
	}
	if r.move != nil {
		return errors.New("cache: Ring.SetServers: servers are moving")
	}
	l := r.layout.Load()
	to := &layout{servers: map[string]*ringServer{}, reads: table}
	both := maps.Clone(l.servers)
	for name, remote := range servers {
		s := l.servers[name]
		if s == nil {
			s = r.server(name, remote)
			for id, w := range r.watchers {
				s.stops[id] = remote.Watch(w.drop, w.flush)
			}
		} else if s.remote != remote {
			return fmt.Errorf("cache: Ring.SetServers: server %s stays and has another remote", name)
		}
		to.servers[name], both[name] = s, s
	}
	r.move = &ringMove{began: time.Now(), to: r.trusting(to)}
	r.layout.Store(r.trusting(&layout{servers: both, reads: l.reads, next: table}))
	return nil
}

// Moving reports whether a change of the servers is under way.
func (r *Ring) Moving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.move != nil
}

func (r *Ring) step(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.move
	if m == nil {
		return
	}
	l := r.layout.Load()
	if m.step == 0 && now.Sub(m.began) >= r.o.Overlap {
		m.step = 1
		l = r.trusting(&layout{servers: l.servers, reads: l.next, old: l.reads, warm: true})
		r.layout.Store(l)
	}
	if m.step == 1 && now.Sub(m.began) >= 2*r.o.Overlap {
		m.step = 2
		l = r.trusting(&layout{servers: l.servers, reads: l.reads, old: l.old})
		r.layout.Store(l)
	}
	if m.step == 2 && now.Sub(m.began) >= 4*r.o.Overlap {
		r.layout.Store(m.to)
		r.move = nil
		for name, s := range l.servers {
			if m.to.servers[name] == nil {
				for _, stop := range s.stops {
					stop()
				}
			}
		}
	}
}

// Close stops watching the servers, which stay open. First tiers are not trusted any more. Idempotent.
func (r *Ring) Close() error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if first {
		r.flushing.Add(1)
		r.cancel()
	}
	<-r.done
	r.tasks.Wait()
	return nil
}

// RingStats are the counters of a [Ring].
type RingStats struct {
	GutterHits  int64 `metric:"gutter_hits_total,counter,Values found in the gutter"`
	GutterFills int64 `metric:"gutter_fills_total,counter,Values stored in the gutter for a server that is out"`
	Warmed      int64 `metric:"warmed_total,counter,Misses filled from where the key was before"`
	Errors      int64 `metric:"errors_total,counter,Failed operations of servers"`
	Outs        int64 `metric:"outs_total,counter,Times a server was taken out"`
	Repaid      int64 `metric:"repaid_total,counter,Keys deleted from a server because a change of them had not reached it"`
	Forgotten   int64 `metric:"forgotten_total,counter,Changes that did not reach a server and were too many to be remembered"`
	Owed        int64 `metric:"owed,gauge,Keys to be deleted from servers before these are used again"`
	Out         int64 `metric:"servers_out,gauge,Servers that are out, the gutter included"`
	Servers     int64 `metric:"servers,gauge,Servers, without the gutter"`
}

// Stats is cheap and safe at any time.
func (r *Ring) Stats() RingStats {
	s := &r.stats
	st := RingStats{GutterHits: s.gutterHits.Load(), GutterFills: s.gutterFills.Load(), Warmed: s.warmed.Load(),
		Errors: s.errors.Load(), Outs: s.outs.Load(),
		Repaid: s.repaid.Load(), Forgotten: s.forgotten.Load(),
		Servers: int64(len(r.layout.Load().servers))}
	for _, s := range r.all() {
		if s.out.Load() {
			st.Out++
		}
		s.debt.mu.Lock()
		st.Owed += int64(len(s.debt.keys))
		s.debt.mu.Unlock()
	}
	return st
}
