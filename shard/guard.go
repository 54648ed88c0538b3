package shard

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// defaultLockTimeout bounds how long writers may have to wait for a lock of a mover.
const defaultLockTimeout = 200 * time.Millisecond

// retryPolicy spaces the attempts of operations and of transactions that met a lock.
var retryPolicy = backoff.Policy{Base: 2 * time.Millisecond, Max: 50 * time.Millisecond}

// access opens transactions that the guards let pass.
func (c *Cluster) access(token uint64) mover.Access {
	return mover.Access{Dialect: c.db, Token: token, LockTimeout: defaultLockTimeout, Retry: retryPolicy}
}

// prepareShard makes the state tables of a shard.
func (c *Cluster) prepareShard(ctx context.Context, s *shardState) error {
	m := c.view.Load().Map
	err := mover.RetryTransient(ctx, c.db, retryPolicy, func() error {
		return sqldb.InTx(ctx, s.DB, func(tx *sql.Tx) error {
			return c.db.Prepare(ctx, tx, m.Slots(), storedSlots(m.Owned(s.ID)))
		})
	})
	if err != nil {
		return fmt.Errorf("shard: prepare %s: %w", s.ID, err)
	}
	return nil
}

// Guard installs the guard triggers on all shards, so that rows of slots that live elsewhere are refused from the
// beginning and not only from the first move on. Call it after the tables were made; it is safe to repeat.
func (c *Cluster) Guard(ctx context.Context) error {
	if c.db == nil {
		return fmt.Errorf("%w: Options.Dialect is needed", ErrPreflight)
	}
	v := c.view.Load()
	for _, sh := range v.dbs {
		var tables []*sqldb.Table
		err := c.access(v.st.Token).In(ctx, sh.DB, func(tx *sql.Tx) (err error) {
			if tables, err = mover.Describe(ctx, tx, c.db, c.opts.specs()); err != nil {
				return err
			}
			if err := c.db.LockTables(ctx, tx, tables); err != nil {
				return err
			}
			return c.db.Guards(ctx, tx, tables)
		})
		if err == nil {
			err = c.db.Install(ctx, sh.DB, tables)
		}
		if err != nil {
			return fmt.Errorf("shard: guard %s: %w", sh.ID, err)
		}
	}
	return nil
}

// Unguarded runs f in a transaction on one shard that the guards let pass, as they do a mover's: for repairs and for
// filling tables. Each row that f writes must have a slot that the shard owns; nothing checks that. f is repeated after
// lock timeouts and serialization failures. ErrMoverLost when the shard has seen a newer mover than this process's map;
// ErrUnknownShard.
func (c *Cluster) Unguarded(ctx context.Context, id ID, f func(tx *sql.Tx) error) error {
	if c.db == nil {
		return fmt.Errorf("%w: Options.Dialect is needed", ErrPreflight)
	}
	sh, err := c.shard(id)
	if err != nil {
		return err
	}
	return c.access(c.view.Load().st.Token).In(ctx, sh.DB, f)
}
