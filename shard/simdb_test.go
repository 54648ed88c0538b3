package shard

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// A database for the simulation: read committed and repeatable read over committed versions, shared and exclusive locks
// with timeouts, a sequence that is not transactional; in short what PostgreSQL does as far as the protocol depends on
// it. The real Cluster and mover run on it through database/sql: a statement is a function that the driver runs in the
// transaction. Each statement, each commit and each access to the map store first waits for its turn, which the
// scheduler gives in an order drawn from a seed.

// scheduler lets one actor run at a time.
type scheduler struct {
	rng    *rand.Rand
	mu     sync.Mutex // guards what follows
	parked []*turn
	off    bool
	steps  int
}

type turn struct {
	who string
	go_ chan struct{}
}

type actorKey struct{}

func (s *scheduler) yield(who string) {
	s.mu.Lock()
	if s.off {
		s.mu.Unlock()
		return
	}
	t := &turn{who, make(chan struct{})}
	s.parked = append(s.parked, t)
	s.mu.Unlock()
	<-t.go_
}

// run gives turns until done, which is closed by the last actor, inside of a synctest bubble.
func (s *scheduler) run(done chan struct{}) {
	for {
		synctest.Wait()
		select {
		case <-done:
			s.mu.Lock()
			s.off = true
			for _, t := range s.parked {
				close(t.go_)
			}
			s.parked = nil
			s.mu.Unlock()
			return
		default:
		}
		s.mu.Lock()
		s.steps++
		if len(s.parked) == 0 || s.rng.IntN(40) == 0 { // time passes
			s.mu.Unlock()
			time.Sleep(time.Duration(1+s.rng.IntN(3)) * time.Millisecond)
			continue
		}
		slices.SortFunc(s.parked, func(a, b *turn) int { return strings.Compare(a.who, b.who) })
		i := s.rng.IntN(len(s.parked))
		t := s.parked[i]
		s.parked = slices.Delete(s.parked, i, i+1)
		s.mu.Unlock()
		close(t.go_)
	}
}

type simVersion struct {
	sqldb.SlotRow
	version int
}

// simData is what a transaction can see.
type simData struct {
	slots  map[sqldb.Slot]simVersion
	rows   map[int64]simRow
	dirty  map[int64]sqldb.DirtyKey
	places map[string]string
	quick  map[sqldb.Slot]bool // slots whose keys are noted without a lock; it is in the guards' functions
	token  uint64
}

type simRow struct {
	slot sqldb.Slot
	v    int64
}

func (d *simData) clone() *simData {
	return &simData{maps.Clone(d.slots), maps.Clone(d.rows), maps.Clone(d.dirty), maps.Clone(d.places),
		maps.Clone(d.quick), d.token}
}

type simDB struct {
	id        ID
	s         *scheduler
	data      *simData
	seq       int64
	locks     map[string]map[*simTx]bool // true: exclusive
	txs       int
	violation func(f string, args ...any)
	// gate holds one for the statement that runs, where no scheduler gives turns. nil: one does.
	gate chan struct{}
}

// enter returns when no other statement runs. It blocks on a channel, as a bubble can wait for that.
func (d *simDB) enter() {
	if d.gate != nil {
		d.gate <- struct{}{}
	}
}

func (d *simDB) leave() {
	if d.gate != nil {
		<-d.gate
	}
}

func newSimDB(id ID, s *scheduler) *simDB {
	return &simDB{id: id, s: s, locks: map[string]map[*simTx]bool{},
		data: &simData{slots: map[sqldb.Slot]simVersion{}, rows: map[int64]simRow{}, dirty: map[int64]sqldb.DirtyKey{},
			places: map[string]string{}, quick: map[sqldb.Slot]bool{}}}
}

// simTx keeps its changes apart until it commits.
type simTx struct {
	db      *simDB
	who     string
	repeat  bool                // REPEATABLE READ
	snap    *simData            // of a repeatable read, from its first statement on
	quick   map[sqldb.Slot]bool // as the guards had it when the transaction locked the table
	mover   bool
	changes []func(*simData)
	failed  error
}

var (
	errSimFenced = errors.New("sim: fenced")
	errSimRetry  = errors.New("sim: lock timeout or serialization failure")
)

// view is what a statement sees: committed data, or the snapshot, with the transaction's own changes.
func (t *simTx) view() *simData {
	base := t.db.data
	if t.repeat {
		if t.snap == nil {
			t.snap = t.db.data.clone()
		}
		base = t.snap
	}
	if len(t.changes) == 0 {
		return base
	}
	d := base.clone()
	for _, c := range t.changes {
		c(d)
	}
	return d
}

func (t *simTx) change(f func(*simData)) { t.changes = append(t.changes, f) }

// lock waits while others hold the key in a way that conflicts.
func (t *simTx) lock(key string, exclusive bool, timeout time.Duration) error {
	for end := time.Now().Add(timeout); ; {
		held := t.db.locks[key]
		free := true
		for o, x := range held {
			free = free && (o == t || !exclusive && !x)
		}
		if free {
			if held == nil {
				held = map[*simTx]bool{}
				t.db.locks[key] = held
			}
			held[t] = held[t] || exclusive
			return nil
		}
		if time.Now().After(end) {
			return errSimRetry
		}
		t.db.leave()
		time.Sleep(time.Millisecond)
		t.db.s.yield(t.who)
		t.db.enter()
	}
}

func (t *simTx) end() {
	for k, held := range t.db.locks {
		delete(held, t)
		if len(held) == 0 {
			delete(t.db.locks, k)
		}
	}
}

// the driver

type simDriver struct{ db *simDB }

func (d *simDB) open() *sql.DB                                   { return sql.OpenDB(simDriver{d}) }
func (d simDriver) Connect(context.Context) (driver.Conn, error) { return &simConn{db: d.db}, nil }
func (d simDriver) Driver() driver.Driver                        { return nil }
func (c *simConn) Prepare(string) (driver.Stmt, error)           { return nil, errors.New("sim: no statements") }
func (c *simConn) Close() error                                  { return nil }
func (c *simConn) Begin() (driver.Tx, error)                     { return nil, errors.New("sim: no Begin") }
func (c *simConn) CheckNamedValue(*driver.NamedValue) error      { return nil }
func (c *simConn) begin(ctx context.Context, repeat bool) *simTx {
	who, _ := ctx.Value(actorKey{}).(string)
	c.db.s.yield(who + "/begin")
	c.db.enter()
	defer c.db.leave()
	c.db.txs++
	return &simTx{db: c.db, who: fmt.Sprintf("%s/%s/%d", who, c.db.id, c.db.txs), repeat: repeat}
}

type simConn struct {
	db *simDB
	tx *simTx
}

func (c *simConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	c.tx = c.begin(ctx, sql.IsolationLevel(o.Isolation) == sql.LevelRepeatableRead)
	return c, nil
}

func (c *simConn) Commit() error {
	t := c.tx
	t.db.s.yield(t.who)
	t.db.enter()
	defer t.db.leave()
	c.tx = nil
	defer t.end()
	if t.failed != nil {
		return t.failed
	}
	for _, f := range t.changes {
		f(t.db.data)
	}
	return nil
}

func (c *simConn) Rollback() error {
	c.db.s.yield(c.tx.who)
	c.db.enter()
	defer c.db.leave()
	c.tx.end()
	c.tx = nil
	return nil
}

func (c *simConn) ExecContext(ctx context.Context, _ string, args []driver.NamedValue) (driver.Result, error) {
	f := args[0].Value.(func(*simTx) error)
	if c.tx != nil {
		c.db.s.yield(c.tx.who)
		c.db.enter()
		err := f(c.tx)
		c.db.leave()
		c.tx.failed = cmp.Or(c.tx.failed, err)
		return driver.RowsAffected(0), err
	}
	c.tx = c.begin(ctx, false)
	c.db.s.yield(c.tx.who)
	c.db.enter()
	err := f(c.tx)
	c.db.leave()
	if err != nil {
		return nil, errors.Join(err, c.Rollback())
	}
	return driver.RowsAffected(0), c.Commit()
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// stmt runs a statement of the simulated database.
func stmt(ctx context.Context, e execer, f func(*simTx) error) error {
	_, err := e.ExecContext(ctx, "sim", f)
	return err
}

// statements of clients

const simLockTimeout = 400 * time.Millisecond

// table locks the table as writers do. Functions that are committed later need not be heard of until the transaction
// ends.
func (t *simTx) table() error {
	err := t.lock("table", false, simLockTimeout)
	if err == nil && t.quick == nil {
		t.quick = maps.Clone(t.db.data.quick)
	}
	return err
}

// guard is the row trigger.
func (t *simTx) guard(mutant string, s sqldb.Slot, id int64) error {
	note := func() {
		t.db.seq++
		seq := t.db.seq
		t.change(func(d *simData) {
			d.dirty[seq] = sqldb.DirtyKey{Seq: seq, Table: "t", Slot: s, PK: strconv.FormatInt(id, 10)}
		})
	}
	if t.quick[s] || mutant == "quickrow" && t.view().quick[s] {
		note()
		return nil
	}
	if mutant != "nolock" {
		if err := t.lock(fmt.Sprint("slot", s), false, simLockTimeout); err != nil {
			return err
		}
		if t.repeat && t.view().slots[s].version != t.db.data.slots[s].version {
			return errSimRetry
		}
	}
	switch t.view().slots[s].State {
	case sqldb.Capture:
		note()
	case sqldb.Owned:
	default:
		return errSimFenced
	}
	return nil
}

// update is "update t set v = f(v) where id = ?"; it reports whether it found a row.
func (t *simTx) update(mutant string, id int64, f func(v int64) int64) (bool, error) {
	if err := t.table(); err != nil {
		return false, err
	}
	if _, ok := t.view().rows[id]; !ok {
		return false, nil
	}
	before := t.view().rows[id]
	if err := t.lock(fmt.Sprint("row", id), true, simLockTimeout); err != nil {
		return false, err
	}
	if t.repeat && t.db.data.rows[id] != t.snap.rows[id] && t.view().rows[id] == before {
		return false, errSimRetry
	}
	r, ok := t.view().rows[id] // as it is now
	if !ok {
		return false, nil
	}
	if err := t.guard(mutant, r.slot, id); err != nil {
		return false, err
	}
	r.v = f(r.v)
	t.change(func(d *simData) { d.rows[id] = r })
	return true, nil
}

// put is an upsert, or a delete when v is 0.
func (t *simTx) put(mutant string, id int64, slot sqldb.Slot, v int64) error {
	if err := t.table(); err != nil {
		return err
	}
	if v == 0 {
		if _, ok := t.view().rows[id]; !ok {
			return nil
		}
	}
	if err := t.lock(fmt.Sprint("row", id), true, simLockTimeout); err != nil {
		return err
	}
	if t.repeat && t.db.data.rows[id] != t.view().rows[id] && len(t.changes) == 0 {
		return errSimRetry
	}
	if err := t.guard(mutant, slot, id); err != nil {
		return err
	}
	t.change(func(d *simData) {
		if v == 0 {
			delete(d.rows, id)
		} else {
			d.rows[id] = simRow{slot, v}
		}
	})
	return nil
}
