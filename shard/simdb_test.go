package shard

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
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
)

// A database for the simulation: read committed and repeatable read over committed versions, shared and exclusive locks with
// timeouts, a sequence that is not transactional; in short what PostgreSQL does as far as the protocol depends on it. The real Cluster and
// mover run on it through database/sql: a statement is a function that the driver runs in the transaction. Each statement, each commit
// and each access to the map store first waits for its turn, which the scheduler gives in an order drawn from a seed.

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
	slotRow
	version int
}

// simData is what a transaction can see.
type simData struct {
	slots  map[Slot]simVersion
	rows   map[int64]simRow
	dirty  map[int64]dirtyKey
	places map[string]string
	token  uint64
}

type simRow struct {
	slot Slot
	v    int64
}

func (d *simData) clone() *simData {
	return &simData{maps.Clone(d.slots), maps.Clone(d.rows), maps.Clone(d.dirty), maps.Clone(d.places), d.token}
}

type simDB struct {
	id    ID
	s     *scheduler
	data  *simData
	seq   int64
	locks map[string]map[*simTx]bool // true: exclusive
	txs   int
}

func newSimDB(id ID, s *scheduler) *simDB {
	return &simDB{id: id, s: s, locks: map[string]map[*simTx]bool{}, data: &simData{slots: map[Slot]simVersion{}, rows: map[int64]simRow{}, dirty: map[int64]dirtyKey{}, places: map[string]string{}}}
}

// simTx keeps its changes apart until it commits.
type simTx struct {
	db      *simDB
	who     string
	repeat  bool     // REPEATABLE READ
	snap    *simData // of a repeatable read, from its first statement on
	mover   bool
	changes []func(*simData)
	failed  error
}

var (
	errSimFenced = errors.New("sim: fenced")
	errSimRetry  = errors.New("sim: lock timeout or serialisation failure")
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
		time.Sleep(time.Millisecond)
		t.db.s.yield(t.who)
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
	c.tx.end()
	c.tx = nil
	return nil
}

func (c *simConn) ExecContext(ctx context.Context, _ string, args []driver.NamedValue) (driver.Result, error) {
	f := args[0].Value.(func(*simTx) error)
	if c.tx != nil {
		c.db.s.yield(c.tx.who)
		err := f(c.tx)
		c.tx.failed = cmp.Or(c.tx.failed, err)
		return driver.RowsAffected(0), err
	}
	c.tx = c.begin(ctx, false)
	c.db.s.yield(c.tx.who)
	if err := f(c.tx); err != nil {
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

// guard is the row trigger.
func (t *simTx) guard(mutant string, s Slot, id int64) error {
	if mutant != "nolock" {
		if err := t.lock(fmt.Sprint("slot", s), false, simLockTimeout); err != nil {
			return err
		}
		if t.repeat && t.view().slots[s].version != t.db.data.slots[s].version {
			return errSimRetry
		}
	}
	switch t.view().slots[s].state {
	case stateCapture:
		t.db.seq++
		seq := t.db.seq
		t.change(func(d *simData) { d.dirty[seq] = dirtyKey{seq, "t", s, strconv.FormatInt(id, 10)} })
	case stateOwned:
	default:
		return errSimFenced
	}
	return nil
}

// update is "update t set v = f(v) where id = ?"; it reports whether it found a row.
func (t *simTx) update(mutant string, id int64, f func(v int64) int64) (bool, error) {
	if err := t.lock("table", false, simLockTimeout); err != nil {
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
func (t *simTx) put(mutant string, id int64, slot Slot, v int64) error {
	if err := t.lock("table", false, simLockTimeout); err != nil {
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

// simDialect is the mover's side. Each process has its own.
type simDialect struct {
	Dialect // what the simulation does not use
	proc    string
	mutant  string
	cursor  map[*simDB]int64 // of the mutant
}

func (simDialect) Name() string                                        { return "sim" }
func (simDialect) IsFenced(err error) bool                             { return errors.Is(err, errSimFenced) }
func (simDialect) IsRetryable(err error) bool                          { return errors.Is(err, errSimRetry) }
func (simDialect) guards(context.Context, *sql.Tx, []*tableInfo) error { return nil }

func (d simDialect) slotState(ctx context.Context, tx *sql.Tx, s Slot, _ []string, readOnly bool) (r slotRow, err error) {
	err = stmt(ctx, tx, func(t *simTx) error {
		if !readOnly {
			if err := t.lock(fmt.Sprint("slot", s), false, simLockTimeout); err != nil {
				return err
			}
			if t.repeat && t.view().slots[s].version != t.db.data.slots[s].version {
				return errSimRetry
			}
		}
		r = t.view().slots[s].slotRow
		if readOnly && d.mutant == "noask" {
			r = slotRow{state: stateOwned}
		}
		return nil
	})
	return r, err
}

func (d simDialect) prepare(ctx context.Context, tx *sql.Tx, slots int, owned []Slot) error {
	return stmt(ctx, tx, func(t *simTx) error {
		if len(t.view().slots) == 0 {
			t.change(func(data *simData) {
				for s := range Slot(slots) {
					if _, ok := data.slots[s]; !ok {
						state := stateGone
						if slices.Contains(owned, s) {
							state = stateOwned
						}
						data.slots[s] = simVersion{slotRow{state: state}, 1}
					}
				}
			})
		}
		return nil
	})
}

func (d simDialect) begin(ctx context.Context, db *sql.DB, token uint64, timeout time.Duration) (*sql.Tx, error) {
	tx, err := db.BeginTx(context.WithValue(ctx, actorKey{}, fmt.Sprint("mover-", d.proc, "-", token)), nil)
	if err != nil {
		return nil, err
	}
	err = stmt(ctx, tx, func(t *simTx) error {
		t.mover = true
		if d.mutant == "notoken" {
			return nil
		}
		if err := t.lock("mover", true, timeout); err != nil {
			return err
		}
		if t.view().token > token {
			return ErrMoverLost
		}
		t.change(func(data *simData) { data.token = token })
		return nil
	})
	if err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	return tx, nil
}

func (d simDialect) commit(_ context.Context, tx *sql.Tx) error { return tx.Commit() }

func (d simDialect) describe(context.Context, *sql.Tx, Table) (*tableInfo, error) {
	return &tableInfo{Table: Table{Name: "t"}}, nil
}

func (d simDialect) lockTables(ctx context.Context, tx *sql.Tx, _ []*tableInfo) error {
	return stmt(ctx, tx, func(t *simTx) error { return t.lock("table", true, 100*time.Millisecond) })
}

func (d simDialect) setState(ctx context.Context, tx *sql.Tx, slots []Slot, state string) error {
	if d.mutant == "latesource" && state == stateLeft {
		return nil
	}
	return d.set(ctx, tx, slots, func(r *slotRow) { r.state = state })
}

func (d simDialect) own(ctx context.Context, tx *sql.Tx, slots []Slot, state string, since uint64) error {
	return d.set(ctx, tx, slots, func(r *slotRow) { r.state, r.since = state, since })
}

func (d simDialect) set(ctx context.Context, tx *sql.Tx, slots []Slot, f func(*slotRow)) error {
	return stmt(ctx, tx, func(t *simTx) error {
		for _, s := range slots {
			if err := t.lock(fmt.Sprint("slot", s), true, 100*time.Millisecond); err != nil {
				return err
			}
			t.change(func(data *simData) {
				v := data.slots[s]
				f(&v.slotRow)
				v.version++
				data.slots[s] = v
			})
		}
		return nil
	})
}

func (d simDialect) chunk(ctx context.Context, tx *sql.Tx, _ *tableInfo, slots []Slot, after string, n int) (out []row, next string, err error) {
	err = stmt(ctx, tx, func(t *simTx) error {
		from, _ := strconv.ParseInt(cmp.Or(after, "-1"), 10, 64)
		data := t.view()
		for _, id := range slices.Sorted(maps.Keys(data.rows)) {
			if r := data.rows[id]; id > from && slices.Contains(slots, r.slot) && len(out) < n {
				out = append(out, simPack(id, r))
				next = strconv.FormatInt(id, 10)
			}
		}
		return nil
	})
	return out, next, err
}

func simPack(id int64, r simRow) row {
	return row{pk: strconv.FormatInt(id, 10), slot: r.slot, vals: []any{id, r.v}}
}

func (d simDialect) dirty(ctx context.Context, tx *sql.Tx, slots []Slot, n int) (keys []dirtyKey, err error) {
	err = stmt(ctx, tx, func(t *simTx) error {
		data := t.view()
		for _, seq := range slices.Sorted(maps.Keys(data.dirty)) {
			k := data.dirty[seq]
			if d.mutant == "cursor" {
				if seq <= d.cursor[t.db] {
					continue
				}
				d.cursor[t.db] = seq
			}
			if slices.Contains(slots, k.slot) && len(keys) < n {
				keys = append(keys, k)
			}
		}
		return nil
	})
	return keys, err
}

func (d simDialect) forget(ctx context.Context, tx *sql.Tx, keys []dirtyKey) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, k := range keys {
				delete(data.dirty, k.seq)
			}
		})
		return nil
	})
}

func (d simDialect) forgetSlots(ctx context.Context, tx *sql.Tx, slots []Slot) error {
	return stmt(ctx, tx, func(t *simTx) error {
		seen := t.view()
		t.change(func(data *simData) {
			for seq, k := range seen.dirty {
				if slices.Contains(slots, k.slot) {
					delete(data.dirty, seq)
				}
			}
		})
		return nil
	})
}

func (d simDialect) current(ctx context.Context, tx *sql.Tx, _ *tableInfo, pks []string) (out []row, err error) {
	err = stmt(ctx, tx, func(t *simTx) error {
		data := t.view()
		for _, pk := range pks {
			id, _ := strconv.ParseInt(pk, 10, 64)
			if r, ok := data.rows[id]; ok {
				out = append(out, simPack(id, r))
			}
		}
		return nil
	})
	return out, err
}

func (d simDialect) upsert(ctx context.Context, tx *sql.Tx, _ *tableInfo, rows []row) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, r := range rows {
				data.rows[r.vals[0].(int64)] = simRow{r.slot, r.vals[1].(int64)}
			}
		})
		return nil
	})
}

func (d simDialect) remove(ctx context.Context, tx *sql.Tx, _ *tableInfo, pks []string) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, pk := range pks {
				id, _ := strconv.ParseInt(pk, 10, 64)
				delete(data.rows, id)
			}
		})
		return nil
	})
}

func (d simDialect) sums(ctx context.Context, tx *sql.Tx, _ *tableInfo, slots []Slot, into map[Slot]string) error {
	return stmt(ctx, tx, func(t *simTx) error {
		data := t.view()
		for _, id := range slices.Sorted(maps.Keys(data.rows)) {
			if r := data.rows[id]; slices.Contains(slots, r.slot) {
				into[r.slot] += fmt.Sprint(id, "=", r.v, ";")
			}
		}
		return nil
	})
}

func (d simDialect) clear(ctx context.Context, tx *sql.Tx, _ *tableInfo, slots []Slot, n int) (count int64, err error) {
	err = stmt(ctx, tx, func(t *simTx) error {
		var ids []int64
		data := t.view()
		for _, id := range slices.Sorted(maps.Keys(data.rows)) {
			if slices.Contains(slots, data.rows[id].slot) && len(ids) < n {
				ids = append(ids, id)
			}
		}
		count = int64(len(ids))
		t.change(func(data *simData) {
			for _, id := range ids {
				delete(data.rows, id)
			}
		})
		return nil
	})
	return count, err
}

func (d simDialect) place(ctx context.Context, tx *sql.Tx, job, _ string) (p string, err error) {
	err = stmt(ctx, tx, func(t *simTx) error { p = t.view().places[job]; return nil })
	return p, err
}

func (d simDialect) setPlace(ctx context.Context, tx *sql.Tx, job, _, place string) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) { data.places[job] = place })
		return nil
	})
}

func (d simDialect) dropPlaces(ctx context.Context, tx *sql.Tx, job string) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for k := range data.places {
				if k == job || strings.HasSuffix(job, "%") && strings.HasPrefix(k, strings.TrimSuffix(job, "%")) {
					delete(data.places, k)
				}
			}
		})
		return nil
	})
}

// simStore is the map store with turns; every state goes through JSON, as in a real one.
type simStore struct {
	MapStore
	s     *scheduler
	who   string
	lease time.Duration // instead of the stored one, for a mutant
}

func (m *simStore) Load(ctx context.Context) (*State, error) {
	m.s.yield(m.who + "/load")
	st, err := m.MapStore.Load(ctx)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	n := new(State)
	if err := json.Unmarshal(b, n); err != nil {
		return nil, err
	}
	if m.lease > 0 {
		n.Lease = m.lease
	}
	return n, nil
}

func (m *simStore) CompareAndSwap(ctx context.Context, old uint64, next *State) error {
	m.s.yield(m.who + "/swap")
	return m.MapStore.CompareAndSwap(ctx, old, next)
}
