package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"
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

// Table is a table whose rows are sharded: it has the slot of its row in an integer column, with an index on (slot,
// key).
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
	// Modulo adopts an existing fleet sharded by id % Modulo: in a new map shard i holds the ids with id % Modulo == i,
	// and no row moves. Shards must be that many, in order.
	Modulo int
	// RangeWidth places integer keys by range instead of by hash, in a new map: RangeWidth consecutive keys share a
	// slot, and consecutive ranges have consecutive slots, beginning again at 0 after Slots of them. For orders by date
	// the key is the day or the Unix time and RangeWidth the seconds of a month; Plan with Change.Slots then moves
	// months, RangeSlots finds them. Hash placement spreads writes; this does not.
	RangeWidth int64
	// Directory places keys by a list instead of by hash, in a new map: a key is where Assign put it, and one that was
	// never assigned is ErrUnassigned. For a few thousand keys at most, such as categories or tenants.
	Directory bool
	// Refresh is how often the map is read again. 0: 1 s; negative: only when an attempt is refused. A stale map costs
	// a retry, never correctness.
	Refresh time.Duration
	// Lease is how long Do and DoMany act on the map without asking the shard, from the last time the store confirmed
	// it; after that they ask, which costs a round trip. A move waits for the longest Lease of all processes: before it
	// fences a slot that it has just announced, and before it deletes rows that were handed over. 0: twice Refresh, at
	// least 2 s. It must be longer than Refresh.
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
	if o.RangeWidth < 0 || o.RangeWidth > 0 && o.Modulo > 0 {
		return fmt.Errorf("shard: Options.RangeWidth %d is negative or set with Modulo", o.RangeWidth)
	}
	if o.Directory && (o.Modulo > 0 || o.RangeWidth > 0) {
		return errors.New("shard: Options.Directory with Modulo or RangeWidth")
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
	st := &State{Epoch: 1, Lease: o.Lease, HashVersion: placement.HashVersion, Slots: o.Slots, Modulo: o.Modulo,
		RangeWidth: o.RangeWidth, Directory: o.Directory, Owners: make(Owners, o.Slots)}
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
