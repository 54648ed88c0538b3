package shard

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// LeaseOptions configure LeaseIDs.
type LeaseOptions struct {
	// NodeBits: up to 1<<NodeBits generators at a time share the sequence of a slot. 0: 4, which is 16 of them.
	NodeBits int
	// TTL is how long a generator that died keeps its number. Renewed at a third of it. 0: 30 s.
	TTL time.Duration
}

// LeasedIDs is an ID generator whose node number is leased from a database, so that nobody has to hand out numbers, and
// whose time never goes back over a restart: each lease stores how far its ids may go, and the next owner of the number
// begins after that. Safe for concurrent use.
type LeasedIDs struct {
	*IDs
	db     *sql.DB
	d      Dialect
	o      LeaseOptions
	holder string
	node   int
	until  atomic.Int64 // ids may be made until then, in milliseconds since idEpoch
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	err    error
}

var errLeaseTaken = errors.New("shard: the lease was taken over")

// LeaseIDs leases a node number in the table tk_node of db, which it makes, and renews it until Close. ErrNoNode when
// all numbers are taken.
func LeaseIDs(ctx context.Context, db *sql.DB, d Dialect, o LeaseOptions) (*LeasedIDs, error) {
	if o.NodeBits < 0 || o.NodeBits > 4 {
		return nil, fmt.Errorf("shard: LeaseOptions.NodeBits %d is not 0 to 4", o.NodeBits)
	}
	if o.TTL < 0 {
		return nil, errors.New("shard: LeaseOptions.TTL is negative")
	}
	if o.NodeBits == 0 {
		o.NodeBits = 4
	}
	if o.TTL == 0 {
		o.TTL = 30 * time.Second
	}
	var b [16]byte
	_, _ = rand.Read(b[:])
	l := &LeasedIDs{db: db, d: d, o: o, holder: hex.EncodeToString(b[:]), node: -1}
	if err := createTable(ctx, db, `tk_node (node integer primary key, holder text not null, until_ms bigint not null)`); err != nil {
		return nil, fmt.Errorf("shard: create tk_node: %w", err)
	}
	var floor int64
	for node := range 1 << o.NodeBits {
		err := inTx(ctx, l.db, func(tx *sql.Tx) error {
			now := time.Since(idEpoch).Milliseconds()
			if _, err := tx.ExecContext(ctx, d.bind(
				`insert into tk_node (node, holder, until_ms) values (?, '', 0) on conflict (node) do nothing`),
				node); err != nil {
				return err
			}
			// The write comes first: it locks the row, or the database.
			res, err := tx.ExecContext(ctx, d.bind(
				`update tk_node set holder = ? where node = ? and (holder = '' or until_ms < ?)`), l.holder, node, now)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n != 1 {
				return errors.Join(errLeaseTaken, err)
			}
			if err := tx.QueryRowContext(ctx, d.bind(`select until_ms from tk_node where node = ?`),
				node).Scan(&floor); err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, d.bind(`update tk_node set until_ms = ? where node = ?`), max(now, floor)+
				o.TTL.Milliseconds(), node)
			l.until.Store(max(now, floor) + o.TTL.Milliseconds())
			return err
		})
		if err == nil {
			l.node = node
			break
		}
		if !errors.Is(err, errLeaseTaken) {
			return nil, fmt.Errorf("shard: lease a node: %w", err)
		}
	}
	if l.node < 0 {
		return nil, fmt.Errorf("%w: all %d numbers are taken", ErrNoNode, 1<<o.NodeBits)
	}
	io := IDOptions{Node: l.node, NodeBits: o.NodeBits}
	if floor > 0 {
		io.Floor = idEpoch.Add(time.Duration(floor) * time.Millisecond)
	}
	var err error
	if l.IDs, err = NewIDs(io); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.wg.Go(func() { l.renew(run) })
	return l, nil
}

// renew moves the limit on. An id is only made below the limit, so what another owner of the number makes begins after
// it.
func (l *LeasedIDs) renew(ctx context.Context) {
	for backoff.Sleep(ctx, l.o.TTL/3) == nil {
		until := time.Since(idEpoch).Milliseconds() + l.o.TTL.Milliseconds()
		if until <= l.until.Load() {
			continue // the clock went back
		}
		err := inTx(ctx, l.db, func(tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, l.d.bind(`update tk_node set until_ms = ? where node = ? and holder = ?`),
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
		case errors.Is(err, errLeaseTaken):
			l.until.Store(0)
			return
		}
	}
}

// Next returns a new id in the slot. ErrNoNode when the lease ran out because it could not be renewed; ErrClock as
// IDs.Next.
func (l *LeasedIDs) Next(s Slot) (int64, error) {
	id, err := l.IDs.Next(s)
	if err == nil && id>>(idSlotBits+idSeqBits) >= l.until.Load() {
		return 0, fmt.Errorf("%w: the lease of node %d ran out", ErrNoNode, l.node)
	}
	return id, err
}

// Node is the leased number.
func (l *LeasedIDs) Node() int { return l.node }

// Close gives the number back. Idempotent.
func (l *LeasedIDs) Close() error {
	l.once.Do(func() {
		l.cancel()
		l.wg.Wait()
		l.until.Store(0)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		// until_ms stays: the next owner begins after it. That wait is bounded by what was really used.
		used := l.Mark().Sub(idEpoch).Milliseconds() + 1
		_, l.err = l.db.ExecContext(ctx, l.d.bind(
			`update tk_node set holder = '', until_ms = ? where node = ? and holder = ?`), used, l.node, l.holder)
	})
	return l.err
}
