package shard

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/postgres"
)

// Whoever noted a key without a lock, in whatever kind of transaction, is waited for before the fence, and what it
// wrote is moved.
func TestWritersInFlightAreSettled(t *testing.T) {
	t.Parallel()
	exec := func(t *testing.T, c *sql.Conn, qs ...string) {
		for _, q := range qs {
			_, err := c.ExecContext(context.Background(), q)
			require.NoError(t, err, q)
		}
	}
	put := func(s *scene) string {
		return fmt.Sprintf(`insert into t (id, slot, v) values (%d, %d, 91)
			on conflict (id) do update set v = excluded.v`, s.id, s.slot)
	}
	for _, c := range []struct {
		name  string
		begin func(t *testing.T, s *scene, c *sql.Conn)
		end   string
	}{
		{"read committed", func(t *testing.T, s *scene, c *sql.Conn) { exec(t, c, `begin`, put(s)) }, `commit`},
		{"repeatable read", func(t *testing.T, s *scene, c *sql.Conn) {
			exec(t, c, `begin isolation level repeatable read`, put(s))
		}, `commit`},
		{"serializable", func(t *testing.T, s *scene, c *sql.Conn) {
			exec(t, c, `begin isolation level serializable`, put(s))
		}, `commit`},
		{"after a savepoint", func(t *testing.T, s *scene, c *sql.Conn) {
			exec(t, c, `begin`, `savepoint a`, put(s), `update t set v = 5`, `rollback to a`, put(s), `savepoint b`,
				`delete from t where id = `+fmt.Sprint(s.id), `rollback to b`)
		}, `commit`},
		{"prepared", func(t *testing.T, s *scene, c *sql.Conn) {
			exec(t, c, `begin`, put(s), `prepare transaction 'p'`)
		}, `commit prepared 'p'`},
		{"every row", func(t *testing.T, s *scene, c *sql.Conn) {
			exec(t, c, `begin`, `update t set v = 91`)
		}, `commit`},
		{"another key", func(t *testing.T, s *scene, c *sql.Conn) { // and one more, because the row moves on
			exec(t, c, `begin`, fmt.Sprintf(`update t set id = 1000 where id = %d`, s.id),
				fmt.Sprintf(`update t set id = %d, v = 91 where id = 1000`, s.id))
		}, `commit`},
		{"copy", func(t *testing.T, s *scene, c *sql.Conn) {
			exec(t, c, `begin`, `delete from t where id = `+fmt.Sprint(s.id))
			require.NoError(t, c.Raw(func(dc any) error {
				_, err := dc.(*stdlib.Conn).Conn().CopyFrom(context.Background(), pgx.Identifier{"t"},
					[]string{"id", "slot", "v"}, pgx.CopyFromRows([][]any{{s.id, int(s.slot), 91}}))
				return err
			}))
		}, `commit`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, "")
			s.write(s.c, s.id, 1, 0)
			conn, err := s.shards[0].DB.Conn(t.Context())
			require.NoError(t, err)
			defer conn.Close()
			var begun, ended atomic.Bool
			j := s.move(t, func(name string) error {
				switch name {
				case "before catchup":
					if begun.CompareAndSwap(false, true) {
						c.begin(t, s, conn)
					}
				case "before settle":
					var writing []string
					require.NoError(t, sqldb.InTx(t.Context(), s.shards[0].DB, func(tx *sql.Tx) (err error) {
						writing, err = postgres.New().Writing(t.Context(), tx,
							[]*sqldb.Table{{TableSpec: sqldb.TableSpec{Name: "t"}}})
						return err
					}))
					require.Len(t, writing, 1)
					time.AfterFunc(50*time.Millisecond, func() {
						ended.Store(true)
						if _, err := conn.ExecContext(context.Background(), c.end); err != nil {
							t.Error(err)
						}
					})
				case "before verify":
					require.True(t, ended.Load(), "the mover went on")
				}
				return nil
			})
			require.NoError(t, j.Wait(t.Context()))
			require.EqualValues(t, 91, s.value(t, s.id))
			var left int
			require.NoError(t, s.shards[0].DB.QueryRow(`select count(*) from tk_dirty`).Scan(&left))
			require.Zero(t, left)
		})
	}
}

// While the mover waits for one transaction, the slot's other writers do not wait.
func TestSettlingKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	var tx *sql.Tx
	var once sync.Once
	settling := make(chan struct{})
	j := s.move(t, func(name string) error {
		switch name {
		case "before catchup":
			once.Do(func() { // it has nothing to do with the slot
				tx = s.source(t, sql.LevelDefault)
				_, err := tx.Exec(`update t set v = v where slot <> $1`, int(s.slot))
				require.NoError(t, err)
			})
		case "before settle":
			close(settling)
		}
		return nil
	})
	<-settling
	for v := range int64(50) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, err := s.shards[0].DB.ExecContext(ctx, `set lock_timeout = 20000; update t set v = `+fmt.Sprint(v+2)+
			` where id = `+fmt.Sprint(s.id))
		cancel()
		require.NoError(t, err)
	}
	select {
	case <-j.done:
		t.Fatal("the mover did not wait")
	default:
	}
	require.NoError(t, tx.Commit())
	require.NoError(t, j.Wait(t.Context()))
	require.EqualValues(t, 51, s.value(t, s.id))
}

// The database itself refuses a fence while keys are noted without a lock, and Guard does not bring that back when it
// was ended.
func TestFenceNeedsSlow(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	var had, has int
	src := s.shards[0].DB
	j := s.move(t, func(name string) error {
		switch name {
		case "before catchup":
			require.NoError(t, s.c.Guard(t.Context()))
			require.NoError(t, src.QueryRow(`select count(*) from tk_quick`).Scan(&had))
			_, err := src.Exec(`update tk_slot set state = 'fenced' where slot = $1`, int(s.slot))
			require.ErrorContains(t, err, "must be waited for")
		case "before verify":
			require.NoError(t, s.c.Guard(t.Context()))
			require.NoError(t, src.QueryRow(`select count(*) from tk_quick`).Scan(&has))
			var quick bool
			require.NoError(t, src.QueryRow(`select bool_or(prosrc like '%= 1 else false%')
				from pg_proc where proname like 'tk\_update%'`).Scan(&quick))
			require.False(t, quick)
		}
		return nil
	})
	require.NoError(t, j.Wait(t.Context()))
	require.Equal(t, 1, had)
	require.Zero(t, has)
}

// A role that may write to the tables and knows nothing of the guards is let through or refused by them like any other,
// at each step.
func TestWriterOfAnotherRole(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	src := s.shards[0].DB
	for _, q := range []string{`create role app`, `grant select, insert, update, delete on t, u to app`} {
		_, err := src.Exec(q)
		require.NoError(t, err)
	}
	as := func(qs ...string) error {
		conn, err := src.Conn(t.Context())
		require.NoError(t, err)
		defer func() {
			_, _ = conn.ExecContext(t.Context(), `reset role`)
			_ = conn.Close()
		}()
		for _, q := range append([]string{`set role app`}, qs...) {
			if _, err := conn.ExecContext(t.Context(), q); err != nil {
				return err
			}
		}
		return nil
	}
	ins, up, del := fmt.Sprintf(`insert into t (id, slot, v) values (5000, %d, 1)`, s.slot),
		`update t set v = v + 1 where id = 5000`, `delete from t where id = 5000`
	steps := 0
	j := s.move(t, func(name string) error {
		switch name {
		case "before capture", "before catchup", "before verify", "before fence":
			steps++
			require.NoError(t, as(ins, up, del), name)
			require.NoError(t, as(fmt.Sprintf(`update t set v = %d where id = %d`, steps+60, s.id)), name)
			require.ErrorContains(t, as(`update tk_slot set state = 'owned'`), "permission denied")
			require.ErrorContains(t, as(`delete from tk_dirty`), "permission denied")
		case "before drain":
			require.True(t, Postgres().IsFenced(as(ins)), name)
		}
		return nil
	})
	require.NoError(t, j.Wait(t.Context()))
	require.Equal(t, 4, steps)
	require.EqualValues(t, 64, s.value(t, s.id))
}

// An abort waits for writers that note keys, and leaves nothing of them.
func TestAbortForgetsWritersInFlight(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	var tx *sql.Tx
	j := s.move(t, func(name string) error {
		if name == "before catchup" {
			tx = s.source(t, sql.LevelDefault)
			_, err := tx.Exec(upsertT, s.id, int(s.slot), 77)
			require.NoError(t, err)
			return mover.ErrCrash
		}
		return nil
	})
	require.ErrorIs(t, j.Wait(t.Context()), mover.ErrCrash)
	time.AfterFunc(100*time.Millisecond, func() { _ = tx.Commit() })
	require.NoError(t, j.Abort(t.Context()))
	for _, table := range []string{"tk_dirty", "tk_quick"} {
		var left int
		require.NoError(t, s.shards[0].DB.QueryRow(`select count(*) from `+table).Scan(&left))
		require.Zero(t, left, table)
	}
	require.EqualValues(t, 77, s.value(t, s.id))
}

// Exactly the entries that were read are forgotten, also when VACUUM FULL has put others in their places.
func TestForgetIsExact(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	ctx, db := t.Context(), s.shards[0].DB
	note := func(pk string) {
		_, err := db.Exec(`insert into tk_dirty (tbl, slot, pk) values ('t', 1, $1::text::jsonb)`, pk)
		require.NoError(t, err)
	}
	read := func() (keys []sqldb.DirtyKey) {
		require.NoError(t, sqldb.InTx(ctx, db, func(tx *sql.Tx) (err error) {
			keys, err = postgres.New().Dirty(ctx, tx, []sqldb.Slot{1}, 100)
			return err
		}))
		return keys
	}
	forget := func(keys []sqldb.DirtyKey) {
		require.NoError(t, sqldb.InTx(ctx, db, func(tx *sql.Tx) error { return postgres.New().Forget(ctx, tx, keys) }))
	}
	for i := range 4 {
		note(fmt.Sprintf(`[%d]`, i))
	}
	first := read()
	require.Len(t, first, 4)
	forget(first[:2])
	_, err := db.Exec(`vacuum full tk_dirty`) // 2 and 3 lie where 0 and 1 lay
	require.NoError(t, err)
	forget(first[:2])
	rest := read()
	require.Len(t, rest, 2)
	require.Equal(t, []string{"[2]", "[3]"}, []string{rest[0].PK, rest[1].PK})
	require.NoError(t, postgres.New().Tidy(ctx, db))
	note(`[2]`) // changed again after it was read
	forget(rest)
	last := read()
	require.Len(t, last, 1)
	require.Greater(t, last[0].Seq, rest[1].Seq)
	forget(last)
	require.Empty(t, read())
}

// Writers of a partition lock it and not its parent.
func TestWritingNamesWritersOfPartitions(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	ctx, db := t.Context(), s.shards[0].DB
	for _, q := range []string{`create table parted (id bigint, slot int) partition by range (id)`,
		`create table parted_1 partition of parted for values from (0) to (10) partition by list (slot)`,
		`create table parted_1_1 partition of parted_1 for values in (1)`} {
		_, err := db.Exec(q)
		require.NoError(t, err)
	}
	writing := func() (ids []string) {
		require.NoError(t, sqldb.InTx(ctx, db, func(tx *sql.Tx) (err error) {
			ids, err = postgres.New().Writing(ctx, tx, []*sqldb.Table{{TableSpec: sqldb.TableSpec{Name: "parted"}}})
			return err
		}))
		return ids
	}
	require.Empty(t, writing())
	tx := s.source(t, sql.LevelDefault)
	_, err := tx.Exec(`select * from parted`)
	require.NoError(t, err)
	require.Empty(t, writing(), "readers are not writers")
	_, err = tx.Exec(`insert into parted_1_1 values (1, 1)`)
	require.NoError(t, err)
	ids := writing()
	require.Len(t, ids, 1)
	require.True(t, strings.Contains(ids[0], "/"))
	require.NoError(t, tx.Rollback())
	require.Empty(t, writing())
}
