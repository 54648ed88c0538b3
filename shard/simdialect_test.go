package shard

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// simDialect is the mover's side. Each process has its own.
type simDialect struct {
	sqldb.Dialect // what the simulation does not use
	proc          string
	mutant        string
	cursor        map[*simDB]int64 // of the mutant
}

func (simDialect) Name() string                                          { return "sim" }
func (simDialect) IsFenced(err error) bool                               { return errors.Is(err, errSimFenced) }
func (simDialect) IsRetryable(err error) bool                            { return errors.Is(err, errSimRetry) }
func (simDialect) Guards(context.Context, *sql.Tx, []*sqldb.Table) error { return nil }

func (d simDialect) SlotState(ctx context.Context, tx *sql.Tx, s sqldb.Slot, _ []string,
	readOnly bool) (r sqldb.SlotRow,
	err error) {
	err = stmt(ctx, tx, func(t *simTx) error {
		if !readOnly {
			if err := t.lock(fmt.Sprint("slot", s), false, simLockTimeout); err != nil {
				return err
			}
			if t.repeat && t.view().slots[s].version != t.db.data.slots[s].version {
				return errSimRetry
			}
		}
		r = t.view().slots[s].SlotRow
		if readOnly && d.mutant == "noask" {
			r = sqldb.SlotRow{State: sqldb.Owned}
		}
		return nil
	})
	return r, err
}

func (d simDialect) Prepare(ctx context.Context, tx *sql.Tx, slots int, owned []sqldb.Slot) error {
	return stmt(ctx, tx, func(t *simTx) error {
		if len(t.view().slots) == 0 {
			t.change(func(data *simData) {
				for s := range sqldb.Slot(slots) {
					if _, ok := data.slots[s]; !ok {
						state := sqldb.Gone
						if slices.Contains(owned, s) {
							state = sqldb.Owned
						}
						data.slots[s] = simVersion{sqldb.SlotRow{State: state}, 1}
					}
				}
			})
		}
		return nil
	})
}

func (d simDialect) Begin(ctx context.Context, db *sql.DB, token uint64, timeout time.Duration) (*sql.Tx, error) {
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

func (simDialect) Abort(tx *sql.Tx)                                       { _ = tx.Rollback() }
func (simDialect) Install(context.Context, *sql.DB, []*sqldb.Table) error { return nil }

func (d simDialect) Commit(_ context.Context, tx *sql.Tx) error { return tx.Commit() }

func (d simDialect) Describe(context.Context, *sql.Tx, sqldb.TableSpec) (*sqldb.Table, error) {
	return &sqldb.Table{TableSpec: sqldb.TableSpec{Name: "t"}}, nil
}

func (d simDialect) LockTables(ctx context.Context, tx *sql.Tx, _ []*sqldb.Table) error {
	return stmt(ctx, tx, func(t *simTx) error { return t.lock("table", true, 100*time.Millisecond) })
}

func (d simDialect) NoteUnlocked(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, s := range slots {
				data.quick[s] = true
			}
		})
		return nil
	})
}

func (d simDialect) NoteLocked(ctx context.Context, tx *sql.Tx, _ []*sqldb.Table, slots []sqldb.Slot) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, s := range slots {
				delete(data.quick, s)
			}
		})
		return nil
	})
}

func (d simDialect) Writing(ctx context.Context, tx *sql.Tx, _ []*sqldb.Table) (ids []string, err error) {
	err = stmt(ctx, tx, func(t *simTx) error {
		for o := range t.db.locks["table"] {
			if d.mutant != "nosettle" {
				ids = append(ids, o.who)
			}
		}
		slices.Sort(ids)
		return nil
	})
	return ids, err
}

func (simDialect) Tidy(context.Context, *sql.DB) error { return nil }

func (d simDialect) SetState(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, state sqldb.SlotState) error {
	if d.mutant == "latesource" && state == sqldb.Left {
		return nil
	}
	return d.set(ctx, tx, slots, func(r *sqldb.SlotRow) { r.State = state })
}

func (d simDialect) Own(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, state sqldb.SlotState,
	since uint64) error {
	return d.set(ctx, tx, slots, func(r *sqldb.SlotRow) { r.State, r.Since = state, since })
}

func (d simDialect) set(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, f func(*sqldb.SlotRow)) error {
	return stmt(ctx, tx, func(t *simTx) error {
		for _, s := range slots {
			if err := t.lock(fmt.Sprint("slot", s), true, 100*time.Millisecond); err != nil {
				return err
			}
			now := t.view().slots[s].SlotRow
			if f(&now); now.State != sqldb.Capture && t.view().quick[s] {
				t.db.violation("slot %d would be %s on %s while its keys are noted without a lock", s, now.State,
					t.db.id)
				return ErrMoverLost
			}
			t.change(func(data *simData) {
				v := data.slots[s]
				f(&v.SlotRow)
				v.version++
				data.slots[s] = v
			})
		}
		return nil
	})
}

func (d simDialect) Chunk(ctx context.Context, tx *sql.Tx, _ *sqldb.Table, slots []sqldb.Slot, after string,
	n int) (out []sqldb.Row,
	next string, err error) {
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

func simPack(id int64, r simRow) sqldb.Row {
	return sqldb.Row{PK: strconv.FormatInt(id, 10), Slot: r.slot, Vals: []any{id, r.v}}
}

func (d simDialect) Dirty(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, n int) (keys []sqldb.DirtyKey,
	err error) {
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
			if slices.Contains(slots, k.Slot) && len(keys) < n {
				keys = append(keys, k)
			}
		}
		return nil
	})
	return keys, err
}

func (d simDialect) Forget(ctx context.Context, tx *sql.Tx, keys []sqldb.DirtyKey) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, k := range keys {
				delete(data.dirty, k.Seq)
			}
		})
		return nil
	})
}

func (d simDialect) ForgetSlots(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot) error {
	return stmt(ctx, tx, func(t *simTx) error {
		seen := t.view()
		t.change(func(data *simData) {
			for seq, k := range seen.dirty {
				if slices.Contains(slots, k.Slot) {
					delete(data.dirty, seq)
				}
			}
		})
		return nil
	})
}

func (d simDialect) Current(ctx context.Context, tx *sql.Tx, _ *sqldb.Table, pks []string) (out []sqldb.Row,
	err error) {
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

func (d simDialect) Upsert(ctx context.Context, tx *sql.Tx, _ *sqldb.Table, rows []sqldb.Row) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, r := range rows {
				data.rows[r.Vals[0].(int64)] = simRow{r.Slot, r.Vals[1].(int64)}
			}
		})
		return nil
	})
}

func (d simDialect) Remove(ctx context.Context, tx *sql.Tx, _ *sqldb.Table, pks []string) error {
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

func (d simDialect) Sums(ctx context.Context, tx *sql.Tx, _ *sqldb.Table, slots []sqldb.Slot,
	into map[sqldb.Slot]string) error {
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

func (d simDialect) Clear(ctx context.Context, tx *sql.Tx, _ *sqldb.Table, slots []sqldb.Slot, n int) (count int64,
	err error) {
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

func (d simDialect) Place(ctx context.Context, tx *sql.Tx, job, _ string) (p string, err error) {
	err = stmt(ctx, tx, func(t *simTx) error { p = t.view().places[job]; return nil })
	return p, err
}

func (d simDialect) SetPlace(ctx context.Context, tx *sql.Tx, job, _, place string) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) { data.places[job] = place })
		return nil
	})
}

func (d simDialect) DropPlaces(ctx context.Context, tx *sql.Tx, job string) error {
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

func (m *simStore) turn(ctx context.Context, what string) {
	who, _ := ctx.Value(actorKey{}).(string)
	m.s.yield(m.who + "/" + who + "/" + what)
}

func (m *simStore) Load(ctx context.Context) (*State, error) {
	m.turn(ctx, "load")
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
		n.in.Lease = m.lease
	}
	return n, nil
}

func (m *simStore) CompareAndSwap(ctx context.Context, old uint64, next *State) error {
	m.turn(ctx, "swap")
	return m.MapStore.CompareAndSwap(ctx, old, next)
}
