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
)

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

func (d simDialect) slotState(ctx context.Context, tx *sql.Tx, s Slot, _ []string, readOnly bool) (r slotRow,
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

func (simDialect) abort(tx *sql.Tx)                                     { _ = tx.Rollback() }
func (simDialect) install(context.Context, *sql.DB, []*tableInfo) error { return nil }

func (d simDialect) commit(_ context.Context, tx *sql.Tx) error { return tx.Commit() }

func (d simDialect) describe(context.Context, *sql.Tx, Table) (*tableInfo, error) {
	return &tableInfo{Table: Table{Name: "t"}}, nil
}

func (d simDialect) lockTables(ctx context.Context, tx *sql.Tx, _ []*tableInfo) error {
	return stmt(ctx, tx, func(t *simTx) error { return t.lock("table", true, 100*time.Millisecond) })
}

func (d simDialect) hasten(ctx context.Context, tx *sql.Tx, slots []Slot) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, s := range slots {
				data.quick[s] = true
			}
		})
		return nil
	})
}

func (d simDialect) slow(ctx context.Context, tx *sql.Tx, _ []*tableInfo, slots []Slot) error {
	return stmt(ctx, tx, func(t *simTx) error {
		t.change(func(data *simData) {
			for _, s := range slots {
				delete(data.quick, s)
			}
		})
		return nil
	})
}

func (d simDialect) writing(ctx context.Context, tx *sql.Tx, _ []*tableInfo) (ids []string, err error) {
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

func (simDialect) tidy(context.Context, *sql.DB) error { return nil }

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
			now := t.view().slots[s].slotRow
			if f(&now); now.state != stateCapture && t.view().quick[s] {
				t.db.violation("slot %d would be %s on %s while its keys are noted without a lock", s, now.state,
					t.db.id)
				return ErrMoverLost
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

func (d simDialect) chunk(ctx context.Context, tx *sql.Tx, _ *tableInfo, slots []Slot, after string, n int) (out []row,
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
		n.Lease = m.lease
	}
	return n, nil
}

func (m *simStore) CompareAndSwap(ctx context.Context, old uint64, next *State) error {
	m.turn(ctx, "swap")
	return m.MapStore.CompareAndSwap(ctx, old, next)
}
