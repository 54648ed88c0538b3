package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
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
	// Refresh is how often the map is read again. 0: 1 s; negative: only when a write is refused. A stale map costs a retry,
	// never correctness.
	Refresh time.Duration
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

	mu     sync.Mutex // guards what follows and the order of views
	shards map[ID]*shardState
	closed bool

	refreshing chan struct{} // held by the one who reads the map; holds one
}

// view is the map with the databases it names, by the map's index.
type view struct {
	*Map
	dbs []*shardState
}

type shardState struct {
	Shard
	routed atomic.Uint64
	hot    *sketch
}

type counters struct {
	routed, refused, crossShard, scatters atomic.Uint64
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
	st, err := store.Load(ctx)
	if errors.Is(err, ErrNoMap) {
		if st, err = firstState(shards, o); err != nil {
			return nil, err
		}
		if err = store.CompareAndSwap(ctx, 0, st); errors.Is(err, ErrConflict) {
			st, err = store.Load(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := c.install(st); err != nil {
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
	if o.Retry <= 0 {
		o.Retry = 5 * time.Second
	}
	if o.HotKeys == 0 {
		o.HotKeys = 4096
	}
	return nil
}

func firstState(shards []Shard, o Options) (*State, error) {
	st := &State{Epoch: 1, HashVersion: placement.HashVersion, Slots: o.Slots, Modulo: o.Modulo, Owners: make(Owners, o.Slots)}
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

// install makes a newer state the view. Older ones are ignored.
func (c *Cluster) install(st *State) error {
	m, err := newMap(st)
	if err != nil {
		return err
	}
	c.mu.Lock()
	old := c.view.Load()
	if old != nil && old.Epoch() >= st.Epoch {
		c.mu.Unlock()
		return nil
	}
	v := &view{Map: m}
	for _, id := range m.ids {
		s, ok := c.shards[id]
		if !ok {
			c.mu.Unlock()
			return fmt.Errorf("%w: the map names %s", ErrUnknownShard, id)
		}
		v.dbs = append(v.dbs, s)
	}
	c.view.Store(v)
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
	if e, ok := c.store.(epocher); ok {
		if n, err := e.Epoch(ctx); err == nil && n <= before.Epoch() {
			return nil
		}
	}
	st, err := c.store.Load(ctx)
	if err != nil {
		return err
	}
	return c.install(st)
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

// route finds the owner of a key and counts it.
func (c *Cluster) route(k Key) (*view, *shardState, Slot, error) {
	v := c.view.Load()
	s := v.SlotOf(k)
	i, ok := v.ownerIndex(s)
	if !ok {
		return nil, nil, 0, fmt.Errorf("shard: slot %d has no owner", s)
	}
	sh := v.dbs[i]
	sh.routed.Add(1)
	c.n.routed.Add(1)
	if sh.hot != nil {
		sh.hot.add(k)
	}
	return v, sh, s, nil
}

var retryPolicy = backoff.Policy{Base: 2 * time.Millisecond, Max: 50 * time.Millisecond}

// retry runs attempt until it succeeds, fails for another reason than a fence, or the time is up.
func (c *Cluster) retry(ctx context.Context, k Key, attempt func(v *view, sh *shardState, s Slot) error) error {
	var deadline time.Time
	for n := 0; ; n++ {
		if c.ctx.Err() != nil {
			return ErrClosed
		}
		v, sh, s, err := c.route(k)
		if err != nil {
			return err
		}
		err = attempt(v, sh, s)
		if err == nil || !c.refused(err) {
			return err
		}
		c.n.refused.Add(1)
		if h := c.opts.Hooks; h != nil && h.Refused != nil {
			h.Refused(s, sh.ID, n)
		}
		now := time.Now()
		if deadline.IsZero() {
			deadline = now.Add(c.opts.Retry)
		}
		if now.After(deadline) {
			return fmt.Errorf("%w: slot %d: %w", ErrFenced, s, err)
		}
		if err := c.Refresh(ctx); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if c.view.Load() == v { // nobody owns it yet: the hand-over is in progress
			if err := backoff.Sleep(ctx, retryPolicy.Delay(n)); err != nil {
				return err
			}
		}
	}
}

// safeToRetry: pgconn and package replica know that nothing happened.
func safeToRetry(err error) bool {
	var s interface{ SafeToRetry() bool }
	return errors.As(err, &s) && s.SafeToRetry()
}

func (c *Cluster) refused(err error) bool {
	if errors.Is(err, errNotOwned) || errors.Is(err, errAgain) {
		return true
	}
	return c.opts.Dialect != nil && c.opts.Dialect.IsFenced(err)
}

var (
	errNotOwned = errors.New("shard: the shard does not own the slot")
	errAgain    = errors.New("shard: serialisation failure")
)

// Do runs f on the database that owns the key. When the fence of a move refuses a write, or the map has
// changed, the map is refreshed and f runs again, so f must be safe to repeat when its first statement was refused; a
// single write statement is. Reads through Do may be stale for as long as this process's map is (Options.Refresh); Tx's are not.
func (c *Cluster) Do(ctx context.Context, k Key, f func(ctx context.Context, db *sql.DB, s Slot) error) error {
	return c.retry(ctx, k, func(_ *view, sh *shardState, s Slot) error { return f(ctx, sh.DB, s) })
}

// Tx is a transaction on the shard of one key.
type Tx struct {
	*sql.Tx
	c    *Cluster
	v    *view
	sh   *shardState
	slot Slot
}

// Slot of the key the transaction was begun for.
func (t *Tx) Slot() Slot { return t.slot }

// Shard the transaction runs on.
func (t *Tx) Shard() ID { return t.sh.ID }

// SlotOf returns the slot of another key of the same shard, or ErrCrossShard.
func (t *Tx) SlotOf(k Key) (Slot, error) {
	s := t.v.SlotOf(k)
	if i, ok := t.v.ownerIndex(s); !ok || t.v.dbs[i] != t.sh {
		t.c.n.crossShard.Add(1)
		return 0, fmt.Errorf("%w: %s is on %s, the transaction on %s", ErrCrossShard, k, t.v.Owner(s), t.sh.ID)
	}
	return s, nil
}

// Tx runs f in a transaction on the shard that owns the key and commits when f returns nil. Refused by a fence it is rolled back
// and repeated on the new owner, as it is after a serialisation failure. It checks inside the transaction that the shard still owns
// the slot, so reads in it are never stale either.
func (c *Cluster) Tx(ctx context.Context, k Key, o *sql.TxOptions, f func(tx *Tx) error) error {
	return c.retry(ctx, k, func(v *view, sh *shardState, s Slot) error {
		tx, err := sh.DB.BeginTx(ctx, o)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		d := c.opts.Dialect
		again := func(err error) error {
			if err != nil && (d != nil && d.IsRetryable(err) || safeToRetry(err)) {
				return fmt.Errorf("%w: %w", errAgain, err)
			}
			return err
		}
		if d != nil {
			state, err := d.slotState(ctx, tx, s, k.parts(), o != nil && o.ReadOnly)
			if err != nil {
				return again(err)
			}
			if state != stateOwned && state != stateCapture && state != stateFenced { // a fenced source still has the truth for reads
				return fmt.Errorf("%w: %s is %s", errNotOwned, sh.ID, state)
			}
		}
		if err := f(&Tx{Tx: tx, c: c, v: v, sh: sh, slot: s}); err != nil {
			return again(err)
		}
		return again(tx.Commit())
	})
}
