package shard

import (
	"context"
	"database/sql"
	"time"
)

// Shard is one database.
type Shard struct {
	ID ID
	// DB may be any *sql.DB, one of a replica.Cluster included. Reads that must be exact use DB too.
	DB *sql.DB
	// Weight is the share of slots relative to the others. 0: 1. To empty a shard, remove it with a Plan.
	Weight float64
}

// Table is a table whose rows are sharded: it has the slot of its row in an indexed integer column.
type Table struct {
	// Name as written in SQL. Required.
	Name string
	// Key is the primary key. Required.
	Key []string
	// SlotColumn. Default "slot".
	SlotColumn string
}

// Options configure a Cluster.
type Options struct {
	// Dialect of the shards. Required for moves; routing alone works without.
	Dialect Dialect
	// Tables that move with their slots.
	Tables []Table
	// Slots is the number of hashed slots of a new map, a power of two. 0: 16384.
	Slots int
	// Refresh is how often the map is read again. 0: 1 s. A stale map costs a retry, never correctness.
	Refresh time.Duration
	// Retry bounds how long Do and Tx go on retrying while a fence refuses. 0: 5 s.
	Retry time.Duration
	// HotKeys is the size of the hot-key sketch per shard, in counters. 0: 4096; negative: off.
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
type Cluster struct{}

// New opens the map in the store, or makes one that spreads the slots over the shards by weight.
// ErrHashVersion when the stored map does not fit this build; ErrUnknownShard when the map names a shard that is not given.
func New(ctx context.Context, store MapStore, shards []Shard, o Options) (*Cluster, error) {
	return nil, ErrClosed
}

// Close stops the refresher. It does not close the shards' databases. Idempotent.
func (c *Cluster) Close() error { return nil }

// Map returns the present map.
func (c *Cluster) Map() *Map { return nil }

// Slot of the key, to be stored in the slot column of its rows.
func (c *Cluster) Slot(k Key) Slot { return 0 }

// DB returns the database of a shard, or nil.
func (c *Cluster) DB(id ID) *sql.DB { return nil }

// AddShard makes a database known. It owns nothing until a move gives it slots.
func (c *Cluster) AddShard(s Shard) error { return nil }

// Do runs f on the database that owns the key. When the fence of a move refuses a write, or the map has
// changed, the map is refreshed and f runs again, so f must be safe to repeat when its first statement was refused; a
// single write statement is.
func (c *Cluster) Do(ctx context.Context, k Key, f func(ctx context.Context, db *sql.DB, s Slot) error) error {
	return ErrClosed
}

// Tx is a transaction on the shard of one key.
type Tx struct {
	*sql.Tx
}

// Slot of the key the transaction was begun for.
func (t *Tx) Slot() Slot { return 0 }

// SlotOf returns the slot of another key of the same shard, or ErrCrossShard.
func (t *Tx) SlotOf(k Key) (Slot, error) { return 0, nil }

// Tx runs f in a transaction on the shard that owns the key and commits when f returns nil. Refused by a fence it is rolled back
// and repeated on the new owner. It checks inside the transaction that the shard still owns the slot, so reads
// in it are never stale either.
func (c *Cluster) Tx(ctx context.Context, k Key, o *sql.TxOptions, f func(tx *Tx) error) error {
	return ErrClosed
}

// DoMany groups the keys by owning shard and runs f once per shard, in parallel. f gets the positions of its keys in keys.
// The error is a *PartialError naming the shards that failed.
func (c *Cluster) DoMany(ctx context.Context, keys []Key, f func(ctx context.Context, db *sql.DB, idx []int) error) error {
	return ErrClosed
}

// Each runs f on every shard, one after another in the map's order, and stops at the first error: for schema migrations.
func (c *Cluster) Each(ctx context.Context, f func(ctx context.Context, id ID, db *sql.DB) error) error {
	return ErrClosed
}

// HotKey is a key that takes a large part of its shard's operations.
type HotKey struct {
	Key   string
	Shard ID
	Slot  Slot
	// Share of the shard's sampled operations, 0 to 1.
	Share float64
	Count uint64
}

// HotKeys returns the n most used keys over all shards since the window began; at most n.
func (c *Cluster) HotKeys(n int) []HotKey { return nil }
