package mover

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

var (
	// ErrVerify is returned when source and target differ.
	ErrVerify = errors.New("shard: copies differ")
	// ErrSchemaChanged is returned when a table was altered during the move.
	ErrSchemaChanged = errors.New("shard: schema changed during the move")
	// ErrNotHeld is returned by Complete and Rollback of a job that is not reversible, or not so far.
	ErrNotHeld = errors.New("shard: the job is not reversible now")
	// ErrCrash ends a job where Options.Step returns it, as a crash would: nothing is undone or reported.
	ErrCrash = errors.New("shard: crash")
)

// Cluster is what a job needs of the process in which it runs.
type Cluster interface {
	// Load and CompareAndSwap are the map store's.
	Load(ctx context.Context) (*stored.State, error)
	CompareAndSwap(ctx context.Context, old uint64, next *stored.State) error
	// Install makes a state the map of this process. asked is a time before the store confirmed it.
	Install(st *stored.State, asked time.Time) error
	Shard(id string) (*sql.DB, error)
	// Prepare makes the state tables of a shard.
	Prepare(ctx context.Context, id string) error
	// Quiesce waits at most for patience until no operation of this process runs under an older map.
	Quiesce(ctx context.Context, patience time.Duration) error
	// MapTTL is how long this process acts on the map without asking.
	MapTTL() time.Duration
}

// Options configure a job.
type Options struct {
	Dialect       sqldb.Dialect
	Tables        []sqldb.TableSpec
	Group         int // slots handed over together
	Chunk         int // rows per transaction
	RowsPerSecond int // 0: no throttle
	LockTimeout   time.Duration
	// Progress is called after every step, Phase when a phase begins, Failed with an error after which a step is
	// repeated, or that leaves something undone. They must return at once. Each may be nil.
	Progress, Phase func(Progress)
	Failed          func(error)

	// Step is called around every step. An error ends the step there. For tests.
	Step func(name string) error
	// NoJitter makes pauses a function of the number of the attempt. For tests.
	NoJitter bool
}

// work is what the actors of one job share.
type work struct {
	Access
	opts     Options
	progress *progress
	pauses   pauses
}

// pauses between attempts.
type pauses struct{ run, hold, settle backoff.Policy }

func newWork(token uint64, o Options, p *progress) *work {
	n := o.NoJitter
	return &work{
		Access: Access{Dialect: o.Dialect, Token: token, LockTimeout: o.LockTimeout,
			Retry: backoff.Policy{Base: 2 * time.Millisecond, Max: 50 * time.Millisecond, NoJitter: n}},
		opts: o, progress: p,
		pauses: pauses{
			run:    backoff.Policy{Base: 10 * time.Millisecond, Max: time.Second, NoJitter: n},
			hold:   backoff.Policy{Base: 20 * time.Millisecond, Max: 500 * time.Millisecond, NoJitter: n},
			settle: backoff.Policy{Base: time.Millisecond, Max: 100 * time.Millisecond, NoJitter: n},
		},
	}
}

// enter reports a phase.
func (w *work) enter(p stored.Phase) error {
	w.progress.change(func(pr *Progress) { pr.Phase = p })
	return w.step("before " + string(p))
}

func (w *work) failed(err error) {
	if err != nil && w.opts.Failed != nil {
		w.opts.Failed(err)
	}
}

func (w *work) step(name string) error {
	if w.opts.Step != nil {
		return w.opts.Step(name)
	}
	return nil
}

func (w *work) describe(ctx context.Context, tx *sql.Tx) ([]*sqldb.Table, error) {
	return Describe(ctx, tx, w.Dialect, w.opts.Tables)
}

// load describes the tables on both sides and refuses with mismatch when they differ.
func (w *work) load(ctx context.Context, g *group, mismatch error) error {
	var there []*sqldb.Table
	if err := w.In(ctx, g.to.db, func(tx *sql.Tx) (err error) {
		there, err = w.describe(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	if err := w.In(ctx, g.from.db, func(tx *sql.Tx) (err error) {
		g.tables, err = w.describe(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	for i, t := range g.tables {
		if !t.SameSchema(there[i]) {
			return fmt.Errorf("%w: table %s on %s: %s on %s: %s", mismatch, t.Name, g.from.id, t.Fingerprint(), g.to.id,
				there[i].Fingerprint())
		}
	}
	return nil
}

// guards writes the guards of both sides' tables anew, in a transaction that changed states. The lock on the tables is
// taken after that on the slots' rows, as clients' transactions have it; else each would wait for the other.
func (w *work) guards(ctx context.Context, tx *sql.Tx, g *group) error {
	if err := w.Dialect.LockTables(ctx, tx, g.tables); err != nil {
		return err
	}
	return w.Dialect.Guards(ctx, tx, g.tables)
}

func (w *work) setState(ctx context.Context, on side, g *group, state sqldb.SlotState) error {
	return w.In(ctx, on.db, func(tx *sql.Tx) error { return w.Dialect.SetState(ctx, tx, g.slots, state) })
}
