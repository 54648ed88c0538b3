package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/placement"
)

// ErrServerOut: the server that a key belongs to does not answer, so a change of the key is not known to have reached
// everybody.
var ErrServerOut = errors.New("cache: server is out")

// RingOptions configure a [Ring]. The zero value of all but Servers is good.
type RingOptions struct {
	// Servers by name. The name decides which keys a server has: keep it when the address changes. All processes must
	// have the same.
	Servers map[string]Remote
	// Gutter, if set, stands in for servers that are out: it may be small, because what it holds lives for GutterTTL.
	Gutter Remote
	// GutterTTL bounds the life of values in the gutter. Default 10 s.
	GutterTTL time.Duration
	// Failures in a row after which a server is out. One that is no longer trusted is out as well. Default 3.
	Failures int
	// Rest is how long a server stays out at least. Default 2 s.
	Rest time.Duration
	// Probe is the interval at which servers are looked at. Default 50 ms.
	Probe time.Duration
	// Overlap is the time within which all processes are told of other servers, see [Ring.SetServers]. Default 10 s.
	Overlap time.Duration
}

// Ring is a [Remote] over many servers. Each key belongs to one, by rendezvous hashing of slots, so that a server that
// comes or goes moves only its own share.
//
// A server that is out is stood in for by the gutter ("Scaling Memcache at Facebook", NSDI 2013, section 3.3): its keys
// live there for a short time, instead of moving to the other servers, which a hot key would then take down one after
// the other. When it returns, empty, it is filled from the gutter first and from the source, under a lease for each
// key, for what the gutter lacks.
//
// A value may be at the key's server and, put there by a process that cannot reach this server, in the gutter. So Set
// and Delete go to both, and return nil only after both have confirmed: the promise of [Remote] holds across partitions
// too. While a key's server is out its changes reach the gutter and return [ErrServerOut]: another process may still
// reach the server, and serve what it has. The ring remembers them, up to 10,000 keys for each server, and deletes
// these keys before it uses the server again. Repeat them all the same where they must not be lost with the process, as
// cache/invalidate does.
//
// It is safe for concurrent use. The servers stay the caller's: close them after the ring.
type Ring struct {
	o      RingOptions
	gutter *ringServer // nil: none
	layout atomic.Pointer[layout]

	flushing atomic.Int64 // servers that are just being taken out

	mu       sync.Mutex // guards what follows, and changes of layout
	watchers map[int]ringWatcher
	nextID   int
	move     *ringMove // nil: none
	closed   bool

	cancel context.CancelFunc
	done   chan struct{}
	tasks  sync.WaitGroup // repayments
	stats  struct{ gutterHits, gutterFills, warmed, errors, outs, repaid, forgotten atomic.Int64 }
}

// layout says where keys are. It is immutable.
type layout struct {
	servers map[string]*ringServer // of all tables
	trusted []*ringServer          // those whose word a first tier needs, unless they are out
	reads   *placement.Table
	next    *placement.Table // which other processes may read by already, nil: none
	old     *placement.Table // which other processes may read by still, nil: none
	warm    bool             // take from where a key was before what is missing where it is
}

type ringServer struct {
	name   string
	remote Remote
	out    atomic.Bool
	inAt   atomic.Pointer[time.Time] // when it returned
	fails  atomic.Int64              // in a row

	// Of the ring's goroutine.
	proven  bool      // was trusted at some time
	since   time.Time // when it came or was first seen out
	doubted int       // looks in a row that found it not trusted

	stops map[int]func() // of Watch, by watcher; guarded by Ring.mu

	debt debt
}

type ringWatcher struct {
	drop  func(string)
	flush func()
}

const ringSlots = 1 << 14

// NewRing joins servers. Close it before them.
func NewRing(o RingOptions) (*Ring, error) {
	if len(o.Servers) == 0 {
		return nil, errors.New("cache: RingOptions.Servers is empty")
	}
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&o.GutterTTL, 10*time.Second)
	or(&o.Rest, 2*time.Second)
	or(&o.Probe, 50*time.Millisecond)
	or(&o.Overlap, 10*time.Second)
	if o.Failures == 0 {
		o.Failures = 3
	}
	switch {
	case o.GutterTTL < time.Millisecond:
		return nil, fmt.Errorf("cache: RingOptions.GutterTTL is %v, must be at least 1ms", o.GutterTTL)
	case o.Failures < 0:
		return nil, fmt.Errorf("cache: RingOptions.Failures is %d", o.Failures)
	case o.Rest < 0:
		return nil, fmt.Errorf("cache: RingOptions.Rest is %v", o.Rest)
	case o.Probe < time.Millisecond:
		return nil, fmt.Errorf("cache: RingOptions.Probe is %v, must be at least 1ms", o.Probe)
	case o.Overlap < 0:
		return nil, fmt.Errorf("cache: RingOptions.Overlap is %v", o.Overlap)
	}
	r := &Ring{o: o, watchers: map[int]ringWatcher{}, done: make(chan struct{})}
	if o.Gutter != nil {
		r.gutter = r.server("", o.Gutter)
	}
	l := &layout{servers: map[string]*ringServer{}}
	for name, remote := range o.Servers {
		l.servers[name] = r.server(name, remote)
	}
	var err error
	if l.reads, err = ringTable(o.Servers); err != nil {
		return nil, err
	}
	r.layout.Store(r.trusting(l))
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.watch(ctx)
	return r, nil
}

func ringTable(servers map[string]Remote) (*placement.Table, error) {
	nodes := make([]placement.Node, 0, len(servers))
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		if name == "" || strings.Contains(name, "|") || servers[name] == nil {
			return nil, fmt.Errorf("cache: RingOptions.Servers: %q has no remote, or a name that is empty or has a |",
				name)
		}
		nodes = append(nodes, placement.Node{ID: name, Weight: 1})
	}
	t, err := placement.Derive(ringSlots, nodes)
	if err != nil {
		return nil, fmt.Errorf("cache: RingOptions.Servers: %w", err)
	}
	return t, nil
}

func (r *Ring) server(name string, remote Remote) *ringServer {
	return &ringServer{name: name, remote: remote, since: time.Now(), stops: map[int]func(){}}
}

func (l *layout) owner(t *placement.Table, key string) *ringServer {
	return l.servers[t.Nodes()[t.OfString(key)].ID]
}

// from is where a key that its server lacks may be found, nil for nowhere.
func (r *Ring) from(l *layout, s *ringServer, key string) *ringServer {
	if l.warm {
		if o := l.owner(l.old, key); o != s && !o.out.Load() {
			return o
		}
	}
	if in := s.inAt.Load(); in != nil && s != r.gutter && r.gutter != nil && time.Since(*in) < r.o.GutterTTL &&
		!r.gutter.out.Load() {
		return r.gutter
	}
	return nil
}

// Fetch implements [Remote].
func (r *Ring) Fetch(ctx context.Context, key string) (Fetched, error) {
	l := r.layout.Load()
	s := l.owner(l.reads, key)
	err := ErrServerOut
	if !s.out.Load() {
		var got Fetched
		if got, err = s.remote.Fetch(ctx, key); err == nil {
			s.fails.Store(0)
			return r.warmed(ctx, l, s, key, got), nil
		}
		r.failed(ctx, s)
	}
	if r.gutter == nil || r.gutter.out.Load() || ctx.Err() != nil {
		return Fetched{}, err
	}
	got, err := r.gutter.remote.Fetch(ctx, key)
	if err != nil {
		r.failed(ctx, r.gutter)
		return Fetched{}, err
	}
	r.gutter.fails.Store(0)
	return r.gutterFetched(got), nil
}

func (r *Ring) gutterFetched(got Fetched) Fetched {
	if got.Value != nil {
		r.stats.gutterHits.Add(1)
	}
	return r.named(r.gutter, got)
}

// named marks a lease with the server that gave it.
func (r *Ring) named(s *ringServer, got Fetched) Fetched {
	if got.Lease != "" {
		got.Lease = s.name + "|" + got.Lease
	}
	return got
}

// warmed fills a miss under the lease it came with from where the key was before. Changes go there before they go to s:
// what is found there after the lease was given is either newer than any change confirmed so far, or comes with a lease
// that the change drops.
func (r *Ring) warmed(ctx context.Context, l *layout, s *ringServer, key string, got Fetched) Fetched {
	if got.Lease == "" {
		return got
	}
	if from := r.from(l, s, key); from != nil {
		old, err := from.remote.Fetch(ctx, key)
		switch {
		case err != nil:
			r.failed(ctx, from)
		case old.Lease != "":
			_ = from.remote.Release(ctx, key, old.Lease)
		case old.Value != nil:
			ok, err := s.remote.Fill(ctx, key, got.Lease, old.Value, old.TTL)
			if err != nil {
				r.failed(ctx, s)
				_ = r.Release(context.WithoutCancel(ctx), key, r.named(s, got).Lease) // nobody else knows of it
			}
			if err != nil || !ok {
				return Fetched{} // changed meanwhile: ask again
			}
			r.stats.warmed.Add(1)
			if from == r.gutter {
				r.stats.gutterHits.Add(1)
			}
			return old
		}
	}
	return r.named(s, got)
}

// leased returns who gave a lease, nil when it has left.
func (r *Ring) leased(lease string) (*ringServer, string) {
	name, rest, _ := strings.Cut(lease, "|")
	if name == "" {
		return r.gutter, rest
	}
	return r.layout.Load().servers[name], rest
}

// Fill implements [Remote].
func (r *Ring) Fill(ctx context.Context, key, lease string, value []byte, ttl time.Duration) (bool, error) {
	s, lease := r.leased(lease)
	if s == nil {
		return false, nil
	}
	if s == r.gutter {
		ttl = min(ttl, r.o.GutterTTL)
	}
	ok, err := s.remote.Fill(ctx, key, lease, value, ttl)
	if err != nil {
		r.failed(ctx, s)
	} else if ok && s == r.gutter {
		r.stats.gutterFills.Add(1)
	}
	return ok, err
}

// Release implements [Remote]. A lease of a server that is out goes with the key's deletion before the server is used
// again: others would wait for it.
func (r *Ring) Release(ctx context.Context, key, lease string) error {
	s, lease := r.leased(lease)
	if s == nil || r.oweWhileOut(s, key) {
		return nil
	}
	return s.remote.Release(ctx, key, lease)
}

// Set implements [Remote].
func (r *Ring) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return r.change(ctx, key, func(s *ringServer) error { return s.remote.Set(ctx, key, value, ttl) })
}

// Delete implements [Remote].
func (r *Ring) Delete(ctx context.Context, key string) error {
	return r.change(ctx, key, func(s *ringServer) error { return s.remote.Delete(ctx, key) })
}

// change goes to every place where a process may have the key: the gutter, then where it was, then where it is, see
// warmed.
func (r *Ring) change(ctx context.Context, key string, last func(*ringServer) error) error {
	l := r.layout.Load()
	var faults []error
	at := func(s *ringServer, do func(*ringServer) error) {
		err := ErrServerOut
		if !r.oweWhileOut(s, key) {
			if err = do(s); err == nil {
				s.fails.Store(0)
				return
			}
			r.owe(s, key)
			r.failed(ctx, s)
		}
		if s == r.gutter {
			faults = append(faults, fmt.Errorf("cache: gutter: %w", err))
		} else {
			faults = append(faults, fmt.Errorf("cache: server %s: %w", s.name, err))
		}
	}
	remove := func(s *ringServer) error { return s.remote.Delete(ctx, key) }
	if r.gutter != nil {
		at(r.gutter, remove)
	}
	s := l.owner(l.reads, key)
	if l.old != nil {
		if o := l.owner(l.old, key); o != s {
			at(o, remove)
		}
	}
	at(s, last)
	if l.next != nil {
		if o := l.owner(l.next, key); o != s {
			at(o, remove)
		}
	}
	return errors.Join(faults...)
}
