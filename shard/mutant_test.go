package shard

import (
	"context"
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/postgres"
	"github.com/tierkit/tierkit/shard/internal/stored"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// The protocol's precautions, each taken away in turn: the scenario that it is there for must then end in a violation,
// and must not with it in place. Scenarios are directed, not random: the hook runs between the mover's steps, on its
// goroutine.

type mutant struct {
	postgres.Database
	kind string
	mu   sync.Mutex
	seq  int64
}

func (m *mutant) Guards(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table) error {
	if err := m.Database.Guards(ctx, tx, tables); err != nil {
		return err
	}
	return m.mutate(ctx, tx)
}

func (m *mutant) NoteLocked(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table, slots []stored.Slot) error {
	if m.kind == "quickrow" {
		_, err := tx.ExecContext(ctx, `delete from tk_quick`)
		return err
	}
	if err := m.Database.NoteLocked(ctx, tx, tables, slots); err != nil {
		return err
	}
	return m.mutate(ctx, tx)
}

// mutate rewrites the guards' functions. nolock: they read the slot's state without locking its row. quickrow: they
// read in a table whether they need to, which a snapshot shows as it was.
func (m *mutant) mutate(ctx context.Context, tx *sql.Tx) error {
	var what string
	switch m.kind {
	case "nolock":
		what = `replace(pg_get_functiondef(p.oid), ' for share', '')`
	case "quickrow":
		what = `regexp_replace(pg_get_functiondef(p.oid),
			'\(case when (new|old)."slot" between 0 and \d+ then get_bit[^=]* = 1 else false end\)',
			'exists (select 1 from tk_quick q where q.slot = \1.slot)')`
	default:
		return nil
	}
	_, err := tx.ExecContext(ctx, `do $do$ declare f record; begin
for f in select `+what+` def from pg_proc p
	where proname like 'tk\_%\_t' or proname like 'tk\_%\_u' loop execute f.def; end loop; end $do$`)
	return err
}

// nosettle: nobody waits for those that wrote before the guards began to lock.
func (m *mutant) Writing(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table) ([]string, error) {
	if m.kind == "nosettle" {
		return nil, nil
	}
	return m.Database.Writing(ctx, tx, tables)
}

// cursor: changes are read by a cursor over a sequence.
func (m *mutant) Dirty(ctx context.Context, tx *sql.Tx, slots []stored.Slot, n int) ([]sqldb.DirtyKey, error) {
	keys, err := m.Database.Dirty(ctx, tx, slots, n)
	if m.kind != "cursor" {
		return keys, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []sqldb.DirtyKey
	for _, k := range keys {
		if k.Seq > m.seq {
			out = append(out, k)
			m.seq = k.Seq
		}
	}
	return out, err
}

// latesource: the target opens before the source closes.
func (m *mutant) SetState(ctx context.Context, tx *sql.Tx, slots []stored.Slot, state sqldb.SlotState) error {
	if m.kind == "latesource" && state == sqldb.Left {
		return nil
	}
	return m.Database.SetState(ctx, tx, slots, state)
}

// notoken: nobody checks who the mover is.
func (m *mutant) Begin(ctx context.Context, db *sql.DB, token uint64, d time.Duration) (*sql.Tx, error) {
	if m.kind == "notoken" {
		token = 1 << 40
	}
	return m.Database.Begin(ctx, db, token, d)
}

// scene is a world with one slot on its way from s0 to s1.
type scene struct {
	*world
	kind string // of the mutant; "": the real protocol
	slot Slot
	id   int // a key of that slot
	ids  []int
}

func newScene(t *testing.T, kind string) *scene {
	w := newWorldWith(t, testdb.Postgres(t), Dialect{&mutant{Database: postgres.New(), kind: kind}}, [3]int{1, 4, 40})
	s := &scene{world: w, kind: kind, slot: -1}
	for id := range w.keys {
		sl := w.c.Slot(Int(int64(id)))
		if s.slot < 0 {
			s.slot = sl
		}
		if sl == s.slot {
			s.ids = append(s.ids, id)
		}
	}
	s.id = s.ids[0]
	return s
}

func (s *scene) move(t *testing.T, step func(name string) error) *Job {
	t.Helper()
	p, err := s.c.Plan(t.Context(), Change{Slots: []Slot{s.slot}, To: "s1"})
	require.NoError(t, err)
	j, err := s.c.Move(t.Context(), p, MoveOptions{LockTimeout: 50 * time.Millisecond, step: step})
	require.NoError(t, err)
	return j
}

// soon calls f while the real protocol waits for it; a mutant does not wait, and may take its time on a slow machine.
func (s *scene) soon(f func()) {
	if s.kind == "" {
		time.AfterFunc(400*time.Millisecond, f)
	}
}

// source begins a raw transaction on the source.
func (s *scene) source(t *testing.T, level sql.IsolationLevel) *sql.Tx {
	t.Helper()
	tx, err := s.shards[0].DB.BeginTx(context.Background(), &sql.TxOptions{Isolation: level})
	require.NoError(t, err)
	return tx
}

const upsertT = `insert into t (id, slot, v) values ($1, $2, $3) on conflict (id) do update set v = excluded.v`

// value is what the cluster has for a key after the move.
func (s *scene) value(t *testing.T, id int) (v int64) {
	t.Helper()
	require.NoError(t, s.c.Refresh(t.Context()))
	_ = s.c.DB(s.c.Map().Owner(s.slot)).QueryRow(`select v from t where id = $1`, id).Scan(&v)
	return v
}

func TestMutants(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind string
		// play returns true when an invariant was violated.
		play func(t *testing.T, s *scene) bool
	}{
		{"nolock", func(t *testing.T, s *scene) bool { // a writer in flight across the fence commits after the drain
			var tx *sql.Tx
			acked := make(chan bool, 1)
			commit := func() { acked <- tx.Commit() == nil }
			var once sync.Once
			j := s.move(t, func(name string) error {
				switch name {
				case "before fence":
					tx = s.source(t, sql.LevelDefault)
					_, err := tx.Exec(upsertT, s.id, int(s.slot), 77)
					require.NoError(t, err)
					s.soon(func() { once.Do(commit) }) // with the lock the fence waits for this
				case "before commit":
					once.Do(commit)
				}
				return nil
			})
			require.NoError(t, j.Wait(t.Context()))
			return <-acked && s.value(t, s.id) != 77
		}},
		{"nolock", func(t *testing.T, s *scene) bool { // a snapshot older than the fence
			var tx *sql.Tx
			acked := false
			j := s.move(t, func(name string) error {
				switch name {
				case "before fence":
					tx = s.source(t, sql.LevelRepeatableRead)
					require.NoError(t, tx.QueryRow(`select count(*) from t`).Scan(new(int)))
				case "before commit":
					_, err := tx.Exec(upsertT, s.id, int(s.slot), 78)
					if err == nil {
						err = tx.Commit()
					}
					acked = err == nil
					_ = tx.Rollback()
				}
				return nil
			})
			require.NoError(t, j.Wait(t.Context()))
			return acked && s.value(t, s.id) != 78
		}},
		{"nosettle", func(t *testing.T, s *scene) bool { // a writer in flight that noted its key without a lock
			var tx *sql.Tx
			acked := make(chan bool, 1)
			var once, begin sync.Once
			commit := func() { acked <- tx.Commit() == nil }
			j := s.move(t, func(name string) error {
				switch name {
				case "before catchup":
					begin.Do(func() {
						tx = s.source(t, sql.LevelDefault)
						_, err := tx.Exec(upsertT, s.id, int(s.slot), 79)
						require.NoError(t, err)
						s.soon(func() { once.Do(commit) }) // the mover waits for this
					})
				case "before commit":
					once.Do(commit)
				}
				return nil
			})
			require.NoError(t, j.Wait(t.Context()))
			return <-acked && s.value(t, s.id) != 79
		}},
		{"quickrow", func(t *testing.T, s *scene) bool { // a snapshot of when keys were noted without a lock
			violated := false
			var txs []*sql.Tx
			j := s.move(t, func(name string) error {
				switch name {
				case "before catchup":
					for _, level := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
						tx := s.source(t, level)
						require.NoError(t, tx.QueryRow(`select count(*) from t`).Scan(new(int)))
						txs = append(txs, tx)
					}
				case "before commit":
					for _, tx := range txs {
						_, err := tx.Exec(upsertT, s.id, int(s.slot), 82)
						if err == nil {
							err = tx.Commit()
						}
						violated = violated || err == nil
						_ = tx.Rollback()
					}
				}
				return nil
			})
			require.NoError(t, j.Wait(t.Context()))
			return violated && s.value(t, s.id) != 82
		}},
		{"cursor", func(t *testing.T, s *scene) bool { // a low number that commits late
			var late *sql.Tx
			var once sync.Once
			j := s.move(t, func(name string) error {
				switch name {
				case "before catchup":
					late = s.source(t, sql.LevelDefault)
					_, err := late.Exec(upsertT, s.ids[0], int(s.slot), 80)
					require.NoError(t, err)
					early := s.source(t, sql.LevelDefault)
					_, err = early.Exec(upsertT, s.ids[1], int(s.slot), 81)
					require.NoError(t, err)
					require.NoError(t, early.Commit())
				case "before settle":
					once.Do(func() { require.NoError(t, late.Commit()) })
				}
				return nil
			})
			err := j.Wait(t.Context())
			return err != nil || s.value(t, s.ids[0]) != 80 // the verification may see it first
		}},
		{"latesource", func(t *testing.T, s *scene) bool { // a reader with an old map, after a write on the new owner
			old := s.process(0)
			stale := false
			j := s.move(t, func(name string) error {
				if name == "before grace" {
					s.write(s.c, s.id, 90, 0)
					var v int64
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					err := old.Tx(ctx, Int(int64(s.id)), nil, func(tx *Tx) error {
						return tx.QueryRow(`select v from t where id = $1`, s.id).Scan(&v)
					})
					stale = err == nil && v != 90
				}
				return nil
			})
			require.NoError(t, j.Wait(t.Context()))
			return stale
		}},
		{"notoken", func(t *testing.T, s *scene) bool { // a zombie writes what it read long ago
			frozen, thaw := make(chan struct{}), make(chan struct{})
			var once sync.Once
			z := s.move(t, func(name string) error {
				if name == "mid copy" {
					once.Do(func() { close(frozen); <-thaw })
				}
				return nil
			})
			<-frozen
			j, err := s.c.Resume(t.Context(), MoveOptions{})
			require.NoError(t, err)
			require.NoError(t, j.Wait(t.Context()))
			s.write(s.c, s.id, 95, 0)
			close(thaw)
			_ = z.Wait(t.Context())
			return s.value(t, s.id) != 95
		}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			require.True(t, c.play(t, newScene(t, c.kind)), "the mutant was not caught")
			require.False(t, c.play(t, newScene(t, "")), "the real protocol failed")
		})
	}
}
