package ids

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/internal/warn"
	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/dialects"
)

// LeaseOptions configure Lease.
type LeaseOptions struct {
	// NodeBits: up to 1<<NodeBits generators at a time share the sequence of a slot. Zero means 4, which is 16
	// of them.
	NodeBits int
	// TTL is how long a generator that died keeps its number. It is renewed at a third of it. Zero means
	// 30 s.
	TTL time.Duration
	// Logger gets a warning, at most once a minute, while the lease cannot be renewed, and when it was taken over. nil
	// means slog.Default().
	Logger *slog.Logger
}

// Leased is a Generator whose node number is leased from a database, so that no number has to be assigned by hand, and
// whose time never goes back over a restart: each lease stores how far its ids may go, and the next owner of the number
// begins after that. Safe for concurrent use.
type Leased struct {
	*Generator
	db     *sql.DB
	d      sqldb.Text
	o      LeaseOptions
	warn   *warn.Log
	errors warn.Tally
	holder string
	node   int
	until  atomic.Int64 // ids may be made until then, in milliseconds since epoch
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	err    error
}

var errLeaseTaken = errors.New("ids: the lease was taken over")

const (
	nodeTable   = `tk_node (node integer primary key, holder text not null, until_ms bigint not null)`
	insertNode  = `insert into tk_node (node, holder, until_ms) values (?, '', 0) on conflict (node) do nothing`
	takeNode    = `update tk_node set holder = ? where node = ? and (holder = '' or until_ms < ?)`
	selectUntil = `select until_ms from tk_node where node = ?`
	setUntil    = `update tk_node set until_ms = ? where node = ?`
	renewNode   = `update tk_node set until_ms = ? where node = ? and holder = ?`
	freeNode    = `update tk_node set holder = '', until_ms = ? where node = ? and holder = ?`
)

func (o LeaseOptions) withDefaults() (LeaseOptions, error) {
	if o.NodeBits < 0 || o.NodeBits > 4 {
		return o, fmt.Errorf("ids: LeaseOptions.NodeBits %d is not 0 to 4", o.NodeBits)
	}
	if o.TTL < 0 {
		return o, errors.New("ids: LeaseOptions.TTL is negative")
	}
	if o.NodeBits == 0 {
		o.NodeBits = 4
	}
	if o.TTL == 0 {
		o.TTL = 30 * time.Second
	}
	return o, nil
}

// Lease leases a node number in the table tk_node of db, which it makes, and renews it until Close. d is the dialect of
// db. ErrNoNode when all numbers are taken.
func Lease(ctx context.Context, db *sql.DB, d shard.Dialect, o LeaseOptions) (*Leased, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	text := dialects.ByName(d.Name())
	if text == nil {
		return nil, errors.New("ids: Lease needs a Dialect")
	}
	var b [16]byte
	_, _ = rand.Read(b[:])
	l := &Leased{db: db, d: text, warn: warn.New(o.Logger), o: o, holder: hex.EncodeToString(b[:]), node: -1}
	if err := sqldb.CreateTable(ctx, db, nodeTable); err != nil {
		return nil, fmt.Errorf("ids: create tk_node: %w", err)
	}
	var floor int64
	for node := 0; node < 1<<o.NodeBits && l.node < 0; node++ {
		floor, err = l.take(ctx, node)
		switch {
		case err == nil:
			l.node = node
		case !errors.Is(err, errLeaseTaken):
			return nil, fmt.Errorf("ids: lease a node: %w", err)
		}
	}
	if l.node < 0 {
		return nil, fmt.Errorf("%w: all %d numbers are taken", ErrNoNode, 1<<o.NodeBits)
	}
	io := Options{Node: l.node, NodeBits: o.NodeBits}
	if floor > 0 {
		io.Floor = epoch.Add(time.Duration(floor) * time.Millisecond)
	}
	if l.Generator, err = New(io); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.wg.Go(func() { l.renew(run) })
	return l, nil
}

// take leases one number and returns until when its ids may be used up. errLeaseTaken when another generator has it.
func (l *Leased) take(ctx context.Context, node int) (floor int64, err error) {
	err = sqldb.InTx(ctx, l.db, func(tx *sql.Tx) error {
		now := time.Since(epoch).Milliseconds()
		if _, err := tx.ExecContext(ctx, l.d.Bind(insertNode), node); err != nil {
			return err
		}
		// The write comes first: it locks the row, or the database.
		res, err := tx.ExecContext(ctx, l.d.Bind(takeNode), l.holder, node, now)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(errLeaseTaken, err)
		}
		if err := tx.QueryRowContext(ctx, l.d.Bind(selectUntil), node).Scan(&floor); err != nil {
			return err
		}
		until := max(now, floor) + l.o.TTL.Milliseconds()
		_, err = tx.ExecContext(ctx, l.d.Bind(setUntil), until, node)
		l.until.Store(until)
		return err
	})
	return floor, err
}

// renew moves the limit on. An id is only made below the limit, so what another owner of the number makes begins after
// it.
func (l *Leased) renew(ctx context.Context) {
	for backoff.Sleep(ctx, l.o.TTL/3) == nil {
		until := time.Since(epoch).Milliseconds() + l.o.TTL.Milliseconds()
		if until <= l.until.Load() {
			continue // the clock went back
		}
		err := sqldb.InTx(ctx, l.db, func(tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, l.d.Bind(renewNode),
				until, l.node, l.holder)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n != 1 {
				return errors.Join(errLeaseTaken, err)
			}
			return nil
		})
		switch {
		case err == nil:
			l.until.Store(until)
			l.warn.Clear("renew", "ids: the lease was renewed", "node", l.node)
		case errors.Is(err, errLeaseTaken):
			l.until.Store(0)
			l.errors.Add(err)
			l.warn.Warn("taken", "ids: another generator took the node number; Next fails from now on", "node", l.node)
			return
		case ctx.Err() == nil:
			l.errors.Add(err)
			l.warn.Warn("renew", "ids: the lease cannot be renewed; Next fails when it runs out", "node", l.node, "err",
				err)
		}
	}
}

// Next returns a new id in the slot. ErrNoNode when the lease ran out because it could not be renewed; ErrClock as
// Generator.Next.
func (l *Leased) Next(s shard.Slot) (int64, error) {
	id, err := l.Generator.Next(s)
	if err == nil && id>>(slotBits+seqBits) >= l.until.Load() {
		return 0, fmt.Errorf("%w: the lease of node %d ran out", ErrNoNode, l.node)
	}
	return id, err
}

// Stats are counters since Lease.
type Stats struct {
	Errors      uint64 `metric:"lease_errors_total,counter,Renewals of the lease that failed"`
	LastError   string
	LastErrorAt time.Time
}

// Stats returns the counters. It is cheap and safe for concurrent use.
func (l *Leased) Stats() Stats {
	var s Stats
	s.Errors, s.LastError, s.LastErrorAt = l.errors.Load()
	return s
}

// Node is the leased number.
func (l *Leased) Node() int { return l.node }

// Close gives the number back. Idempotent.
func (l *Leased) Close() error {
	l.once.Do(func() {
		l.cancel()
		l.wg.Wait()
		l.until.Store(0)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		// until_ms stays: the next owner begins after it. That wait is bounded by what was really used.
		used := l.Mark().Sub(epoch).Milliseconds() + 1
		_, l.err = l.db.ExecContext(ctx, l.d.Bind(freeNode), used, l.node, l.holder)
	})
	return l.err
}
