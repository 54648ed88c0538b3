package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/placement"
)

// Shard is one database.
type Shard struct {
	ID ID
	// DB may be any *sql.DB, one of a replica.Cluster included.
	DB *sql.DB
	// Weight is the share of slots relative to the others in a new map. 0: 1; negative: none.
	Weight float64
}

// Table is a table whose rows are sharded: it has the slot of its row in an integer column, with an index on (slot, key).
type Table struct {
	// Name as written in SQL. Required.
	Name string
	// Key is the primary key. Required.
	Key []string
	// By are the columns of the sharding key, in the order of Composite. Default: Key. Only pins need them.
	By []string
	// SlotColumn. Default "slot".
	SlotColumn string
}

// Options configure a Cluster.
type Options struct {
	// Dialect of the shards. Required for moves, and for Tx to be exact during them; routing alone works without.
	Dialect Dialect
	// Tables that move with their slots; those that others refer to come first.
	Tables []Table
	// Slots is the number of hashed slots of a new map, a power of two. 0: 16384.
	Slots int
	// Modulo adopts an existing fleet sharded by id % Modulo: in a new map shard i holds the ids with id % Modulo == i, and no row
	// moves. Shards must be that many, in order.
	Modulo int
	// Refresh is how often the map is read again. 0: 1 s; negative: only when an attempt is refused. A stale map costs a retry,
	// never correctness.
	Refresh time.Duration
	// Lease is how long Do and DoMany act on the map without asking the shard, from the last time the store confirmed it; after that
	// they ask, which costs a round trip. A move waits for the longest Lease of all processes: before it fences a slot that it
	// has just announced, and before it deletes rows that were handed over. 0: twice Refresh, at least 2 s. It must be longer than Refresh.
	Lease time.Duration
	// Retry bounds how long Do and Tx go on retrying while a fence refuses. 0: 5 s.
	Retry time.Duration
	// HotKeys is the number of counters of the hot-key sketch per shard. 0: 4096; negative: off.
	HotKeys int
	// Hooks observe. nil costs nothing.
	Hooks *Hooks
}

// Hooks are called synchronously and must be quick. Any may be nil.
type Hooks struct {
	// Refused is called when a fence or a stale map refused an attempt on a slot.
	Refused func(slot Slot, shard ID, attempt int)
	// MapChanged is called when a newer map was installed.
	MapChanged func(before, after *Map)
	// Phase is called when a job enters a phase.
	Phase func(p Progress)
}

// Cluster routes keys to shards. Safe for concurrent use.
type Cluster struct {
	opts  Options
	store MapStore
	view  atomic.Pointer[view]
	n     counters

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows and the order of views
	shards  map[ID]*shardState
	closed  bool
	retired []*view // older views that operations still run under

	refreshing chan struct{} // held by the one who reads the map; holds one
}

// view is the map with the databases it names, by the map's index.
type view struct {
	*Map
	dbs       []*shardState
	moving    map[Slot]bool             // announced by a job: these slots may be fenced at any time
	pinning   *PinState                 // a key that is about to get a slot of its own
	confirmed atomic.Pointer[time.Time] // when the store last said that this is the map
	flights   flights
}

type shardState struct {
	Shard
	routed atomic.Uint64
	hot    *sketch
}

type counters struct {
	routed, refused, crossShard, scatters, asked, unknown atomic.Uint64
}

// New opens the map in the store, or makes one that spreads the slots over the shards by weight. With a Dialect it also creates the
// state tables (tk_slot, tk_mover, tk_dirty, tk_job) in every shard.
// ErrHashVersion when the stored map does not fit this build; ErrUnknownShard when the map names a shard that is not given.
func New(ctx context.Context, store MapStore, shards []Shard, o Options) (*Cluster, error) {
	if store == nil {
		return nil, errors.New("shard: store is nil")
	}
	if err := o.check(len(shards)); err != nil {
		return nil, err
	}
	c := &Cluster{opts: o, store: store, shards: map[ID]*shardState{}, refreshing: make(chan struct{}, 1)}
	for _, s := range shards {
		if err := c.AddShard(s); err != nil {
			return nil, err
		}
	}
	asked := time.Now()
	st, err := openMap(ctx, store, shards, c.opts)
	if err != nil {
		return nil, err
	}
	if err := c.install(st, asked); err != nil {
		return nil, err
	}
	if o.Dialect != nil {
		for _, s := range c.view.Load().dbs {
			if err := c.prepareShard(ctx, s); err != nil {
				return nil, err
			}
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if c.opts.Refresh > 0 {
		c.wg.Go(c.refreshLoop)
	}
	return c, nil
}

func (o *Options) check(shards int) error {
	if shards == 0 {
		return errors.New("shard: shards is empty")
	}
	if o.Slots == 0 {
		o.Slots = 16384
	}
	if o.Modulo < 0 || o.Modulo > 0 && o.Modulo != shards {
		return fmt.Errorf("shard: Options.Modulo is %d for %d shards", o.Modulo, shards)
	}
	if o.Modulo > 0 {
		o.Slots = o.Modulo * max(16384/o.Modulo, 1)
	} else if bits.OnesCount(uint(o.Slots)) != 1 || o.Slots > 1<<20 {
		return fmt.Errorf("shard: Options.Slots %d is not a power of two up to 2^20", o.Slots)
	}
	for i := range o.Tables {
		t := &o.Tables[i]
		if t.Name == "" || len(t.Key) == 0 {
			return fmt.Errorf("shard: Options.Tables[%d] needs a Name and a Key", i)
		}
		if len(t.By) == 0 {
			t.By = t.Key
		}
		if t.SlotColumn == "" {
			t.SlotColumn = "slot"
		}
	}
	if len(o.Tables) > 0 && o.Dialect == nil {
		return errors.New("shard: Options.Tables without Options.Dialect")
	}
	if o.Refresh == 0 {
		o.Refresh = time.Second
	}
	if o.Lease == 0 {
		o.Lease = max(2*o.Refresh, 2*time.Second)
	}
	if o.Lease <= max(o.Refresh, 0) {
		return fmt.Errorf("shard: Options.Lease %v is not longer than Options.Refresh %v", o.Lease, o.Refresh)
	}
	if o.Retry <= 0 {
		o.Retry = 5 * time.Second
	}
	if o.HotKeys == 0 {
		o.HotKeys = 4096
	}
	return nil
}

// openMap loads the map or makes the first one, and sees to it that movers know of this process's lease.
func openMap(ctx context.Context, store MapStore, shards []Shard, o Options) (*State, error) {
	for {
		st, err := store.Load(ctx)
		old, next := uint64(0), (*State)(nil)
		switch {
		case errors.Is(err, ErrNoMap):
			if next, err = firstState(shards, o); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		case st.Lease >= o.Lease:
			return st, nil
		default:
			old, next = st.Epoch, st.clone()
			next.Epoch++
			next.Lease = o.Lease
		}
		if err := store.CompareAndSwap(ctx, old, next); err == nil {
			return next, nil
		} else if !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
}

func firstState(shards []Shard, o Options) (*State, error) {
	st := &State{Epoch: 1, Lease: o.Lease, HashVersion: placement.HashVersion, Slots: o.Slots, Modulo: o.Modulo, Owners: make(Owners, o.Slots)}
	nodes := make([]placement.Node, len(shards))
	for i, s := range shards {
		w := s.Weight
		if w == 0 {
			w = 1
		}
		nodes[i] = placement.Node{ID: string(s.ID), Weight: max(w, 0)}
		st.Shards = append(st.Shards, s.ID)
	}
	if o.Modulo > 0 {
		for s := range st.Owners {
			st.Owners[s] = uint16(s % o.Modulo)
		}
		return st, nil
	}
	t, _, err := placement.Rebalance(nil, o.Slots, nodes)
	if err != nil {
		return nil, fmt.Errorf("shard: Shard.Weight: %w", err)
	}
	for s := range st.Owners {
		for i, id := range st.Shards {
			if t.OwnerID(s) == string(id) {
				st.Owners[s] = uint16(i)
			}
		}
	}
	return st, nil
}

// AddShard makes a database known. It owns nothing until a move gives it slots.
func (c *Cluster) AddShard(s Shard) error {
	if s.ID == "" {
		return errors.New("shard: Shard.ID is empty")
	}
	if s.DB == nil {
		return fmt.Errorf("shard: Shard.DB of %s is nil", s.ID)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if _, ok := c.shards[s.ID]; ok {
		return fmt.Errorf("shard: two shards are called %s", s.ID)
	}
	state := &shardState{Shard: s}
	if c.opts.HotKeys > 0 {
		state.hot = newSketch(c.opts.HotKeys)
	}
	c.shards[s.ID] = state
	return nil
}

// install makes a newer state the view. Older ones are ignored. asked is a time before the store said that it was the map.
func (c *Cluster) install(st *State, asked time.Time) error {
	m, err := newMap(st)
	if err != nil {
		return err
	}
	c.mu.Lock()
	old := c.view.Load()
	if old != nil && old.Epoch() >= st.Epoch {
		c.mu.Unlock()
		if old.Epoch() == st.Epoch {
			old.confirm(asked)
		}
		return nil
	}
	v := &view{Map: m, moving: st.announced()}
	if st.Job != nil && st.Job.Phase == PhasePin {
		v.pinning = st.Job.Pin
	}
	v.confirm(asked)
	for _, id := range m.ids {
		s, ok := c.shards[id]
		if !ok {
			c.mu.Unlock()
			return fmt.Errorf("%w: the map names %s", ErrUnknownShard, id)
		}
		v.dbs = append(v.dbs, s)
	}
	c.view.Store(v)
	if old != nil {
		c.retired = slices.DeleteFunc(append(c.retired, old), (*view).idle)
	}
	c.mu.Unlock()
	if h := c.opts.Hooks; h != nil && h.MapChanged != nil && old != nil {
		h.MapChanged(old.Map, m)
	}
	return nil
}

// Refresh reads the map from the store if it is newer. Concurrent calls share one read.
func (c *Cluster) Refresh(ctx context.Context) error {
	before := c.view.Load()
	select {
	case c.refreshing <- struct{}{}:
		defer func() { <-c.refreshing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.view.Load() != before { // somebody else did it while we waited
		return nil
	}
	asked := time.Now()
	if e, ok := c.store.(epocher); ok {
		if n, err := e.Epoch(ctx); err == nil && n <= before.Epoch() {
			if n == before.Epoch() {
				before.confirm(asked)
			}
			return nil
		}
	}
	st, err := c.store.Load(ctx)
	if err != nil {
		return err
	}
	return c.install(st, asked)
}

func (c *Cluster) refreshLoop() {
	t := time.NewTicker(c.opts.Refresh)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			ctx, cancel := context.WithTimeout(c.ctx, max(c.opts.Refresh, time.Second))
			_ = c.Refresh(ctx) // the old map goes on working; the fences see to that
			cancel()
		case <-c.ctx.Done():
			return
		}
	}
}

// Close stops the refresher and the mover. It does not close the shards' databases. Idempotent.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	return nil
}

// Map returns the present map.
func (c *Cluster) Map() *Map { return c.view.Load().Map }

// Slot of the key, to be stored in the slot column of its rows. Inside Do and Tx use the slot they give.
func (c *Cluster) Slot(k Key) Slot { return c.view.Load().SlotOf(k) }

// DB returns the database of a shard, or nil.
func (c *Cluster) DB(id ID) *sql.DB {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.shards[id]; ok {
		return s.DB
	}
	return nil
}

func (c *Cluster) shard(id ID) (*shardState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.shards[id]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrUnknownShard, id)
	}
	return s, nil
}
