package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/internal/warn"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// Cluster routes keys to shards. Safe for concurrent use.
type Cluster struct {
	opts  Options
	db    sqldb.Dialect // nil: none
	store MapStore
	view  atomic.Pointer[view]
	n     counters

	stale time.Duration // of the store's reads
	warn  *warn.Log
	hooks usercode.Serial // calls Options.Hooks

	refreshErrors, jobErrors, hookErrors warn.Tally
	ctx                                  context.Context
	cancel                               context.CancelFunc
	wg                                   sync.WaitGroup

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
	moving    map[stored.Slot]bool      // announced by a job: these slots may be fenced at any time
	pinning   *stored.Pin               // a key that is about to get a slot of its own
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

// New opens the map in the store, or makes one that spreads the slots over the shards by weight. With a Dialect it also
// creates the state tables (tk_slot, tk_mover, tk_dirty, tk_job) in every shard. ErrHashVersion when the stored map
// does not fit this build; ErrUnknownShard when the map names a shard that is not given.
func New(ctx context.Context, store MapStore, shards []Shard, o Options) (*Cluster, error) {
	if store == nil {
		return nil, errors.New("shard: store is nil")
	}
	o, err := o.withDefaults(len(shards))
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: o, db: o.Dialect.db, warn: warn.New(o.Logger), store: store, shards: map[ID]*shardState{},
		refreshing: make(chan struct{}, 1)}
	c.hooks.Failed = c.hookFailed
	if s, ok := store.(Stale); ok {
		if c.stale = s.Staleness(); c.opts.MapTTL <= c.stale {
			return nil, fmt.Errorf("shard: Options.MapTTL %v is not longer than the map store's Staleness %v",
				c.opts.MapTTL, c.stale)
		}
	}
	for _, s := range shards {
		if err := c.AddShard(s); err != nil {
			return nil, err
		}
	}
	asked := time.Now().Add(-c.stale)
	st, err := c.openMap(ctx, shards)
	if err != nil {
		return nil, err
	}
	if err := c.install(st, asked); err != nil {
		return nil, err
	}
	if c.db != nil {
		for _, s := range c.view.Load().dbs {
			if err := c.prepareShard(ctx, s); err != nil {
				return nil, err
			}
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if c.opts.Refresh > 0 {
		c.wg.Go(c.refreshLoop)
		if w, ok := store.(Watcher); ok {
			c.wg.Go(func() { c.watch(w) })
		}
	}
	return c, nil
}

// AddShard makes a database known. It owns nothing until a move gives it slots.
func (c *Cluster) AddShard(s Shard) error {
	if s.ID == "" {
		return errors.New("shard: Shard.ID is empty")
	}
	if s.DB == nil {
		return fmt.Errorf("shard: Shard.DB of %s is nil", s.ID)
	}
	if math.IsNaN(s.Weight) || math.IsInf(s.Weight, 0) {
		return fmt.Errorf("shard: Shard.Weight of %s is %v", s.ID, s.Weight)
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

// install makes a newer state the view. Older ones are ignored. asked is a time before the store said that it was the
// map.
func (c *Cluster) install(st *stored.State, asked time.Time) error {
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
	v := &view{Map: m, moving: st.Announced()}
	if st.Job != nil && st.Job.Phase == stored.Pinning {
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
		c.call(&c.hooks, func() { h.MapChanged(old.Map, m) })
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
	asked := time.Now().Add(-c.stale)
	if e, ok := c.store.(epocher); ok {
		if n, err := e.Epoch(ctx); err == nil && n <= before.Epoch() {
			if n == before.Epoch() {
				before.confirm(asked)
			}
			return nil
		}
	}
	st, err := c.load(ctx)
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
			c.refreshed("refresh", c.Refresh(ctx))
			cancel()
		case <-c.ctx.Done():
			return
		}
	}
}

// refreshed reports the outcome of reading or watching the map. The old map goes on working: fences refuse what is
// outdated, and after MapTTL operations ask their shard.
func (c *Cluster) refreshed(what string, err error) {
	if c.ctx.Err() != nil { // closed
		return
	}
	if err == nil {
		c.warn.Clear(what, "shard: the map can be read again")
		return
	}
	c.refreshErrors.Add(err)
	c.warn.Warn(what, "shard: the map cannot be read; operations go on with the old one", "what", what,
		"epoch", c.view.Load().Epoch(), "err", err)
}

// watchPolicy spaces the calls of a watcher that fails.
var watchPolicy = backoff.Policy{Base: 10 * time.Millisecond, Max: time.Second}

func (c *Cluster) watch(w Watcher) {
	for n := 0; c.ctx.Err() == nil; n++ {
		err := w.Watch(c.ctx, func() {
			n = 0
			c.refreshed("refresh", c.Refresh(c.ctx))
		})
		if err == nil {
			err = errors.New("the watch ended")
		}
		c.refreshed("watch", err)
		if backoff.Sleep(c.ctx, watchPolicy.Delay(n)) != nil {
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

// Shards returns all shards that the cluster knows, those without slots included, by ID.
func (c *Cluster) Shards() []Shard {
	var out []Shard
	for _, sh := range c.known() {
		out = append(out, sh.Shard)
	}
	return out
}

// known are all shards, those without slots included, by ID.
func (c *Cluster) known() []*shardState {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*shardState
	for _, id := range slices.Sorted(maps.Keys(c.shards)) {
		out = append(out, c.shards[id])
	}
	return out
}

// Tables returns Options.Tables with their defaults filled in.
func (c *Cluster) Tables() []Table { return slices.Clone(c.opts.Tables) }

// Dialect returns Options.Dialect.
func (c *Cluster) Dialect() Dialect { return c.opts.Dialect }

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
