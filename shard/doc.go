// Package shard spreads one data set over many databases and moves parts of it while it is being written.
//
// The problem: one database cannot hold the data. id % n finds a database quickly but cannot grow: with n+1 nearly
// every row lives somewhere else, so the service stops to copy. Here keys map to 16384 fixed slots and slots map to
// shards, so growing means moving a few slots, one group at a time, while the application reads and writes: copy,
// capture of what changes meanwhile, verification, a fence inside the database that refuses late writers, and one
// compare-and-swap of the map.
//
//	package main
//
//	import (
//		"context"
//		"database/sql"
//		"log"
//
//		_ "github.com/jackc/pgx/v5/stdlib"
//		"github.com/tierkit/tierkit/shard"
//	)
//
//	func main() {
//		ctx := context.Background()
//		a, _ := sql.Open("pgx", "postgres://app@db1/app")
//		b, _ := sql.Open("pgx", "postgres://app@db2/app")
//		cluster, err := shard.New(ctx, shard.SQLStore(a, shard.Postgres()),
//			[]shard.Shard{{ID: "a", DB: a}, {ID: "b", DB: b}},
//			shard.Options{Dialect: shard.Postgres(), Tables: []shard.Table{{Name: "users", Key: []string{"id"}}}})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer cluster.Close()
//		err = cluster.Tx(ctx, shard.String("alice"), nil, func(tx *shard.Tx) error {
//			_, err := tx.ExecContext(ctx, `insert into users (id, slot, name) values ($1, $2, $3)`,
//				"alice", tx.Slot(), "Alice")
//			return err
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//	}
//
// # Why slots and not a ring
//
// Both are consistent hashing: a node that joins or leaves moves only its share of the keys. A table of slots is one
// hash and one load: 2.6 times as fast as AnchorHash and 5 times as fast as jump hash at 100 nodes (go test -bench
// Lookup ./shard in benchmarks). It moves the exact minimum, has exact weights, lets any node go, and, what matters
// most, names what moves: a slot is a unit that can be copied, fenced, verified and handed over. A ring has only
// points; package ring has one.
//
// # What a move promises
//
// No acknowledged write is lost, no deleted row comes back, at most one shard accepts writes of a slot, and no read
// through Tx or Do is older than what was acknowledged before it began. That holds if the mover dies at any step
// (Resume), if another one takes its place while it only slept (tokens), if the source's primary is killed and a
// synchronous standby promoted, for long transactions and all isolation levels, and for programs that write to a shard
// without this package, as far as a row of theirs is concerned: triggers guard the rows. Operations that are older than
// Options.MapTTL, because their process was stopped, return ErrOutcomeUnknown. The protocol
// is explored by a deterministic simulation, of which a seed is one history: go test ./shard -run TestSimulation -v.
//
// A move costs the processes nothing while it copies, one MapTTL of waiting at its beginning and its end (not of the
// writers), some milliseconds during which writes of a group of slots wait, and on PostgreSQL about a sixth of a
// durable write's time for rows of slots that are just being moved. Before a fence the mover waits, without keeping
// anybody waiting, for transactions that are writing to the tables, also to other slots.
//
// # Which package answers which pain
//
//   - A database is nearly full: advise.Suggest, Cluster.Plan, Cluster.Move; MoveOptions.Reversible to be able to go
//     back.
//   - A fleet sharded by id % n exists: Modulo and schema.FillSlots.
//   - One key is too hot: Cluster.HotKeys, Pin, advise.AutoPin; for its writes Parts.
//   - A schema changes: schema.Migrate, schema.Drift. Small tables that all need: schema.UpdateReferences.
//   - Questions to all shards: Scatter, Aggregate; a list in another order than the shards': readtable.
//   - Months or categories instead of a hash: Range, Directory.
//   - Ids that sort by time and carry their slot: ids.New, ids.Lease.
//   - Consistent hashing without a stored map (a ring, jump hash, rendezvous hashing): ring.
package shard
