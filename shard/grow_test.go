package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A fleet of id % 2 without slots becomes one that can be resharded, while it is written to.
func TestFillSlots(t *testing.T) {
	everyPlace(t, func(t *testing.T, p *place) {
		ctx := t.Context()
		var shards []Shard
		for i := range 3 {
			db := p.open(fmt.Sprint("f", i))
			_, err := db.Exec(`create table users (id bigint primary key, name text not null)`)
			require.NoError(t, err)
			_, err = db.Exec(`create table likes (usr bigint, page varchar(50), n bigint not null, primary key (usr, page))`)
			require.NoError(t, err)
			shards = append(shards, Shard{ID: ID(fmt.Sprint("f", i)), DB: db})
		}
		for id := range 100 {
			db := shards[id%2].DB
			_, err := db.Exec(p.d.bind(`insert into users values (?, ?)`), id, fmt.Sprint("user", id))
			require.NoError(t, err)
			_, err = db.Exec(p.d.bind(`insert into likes values (?, ?, 1)`), id, "it's \"a\" page")
			require.NoError(t, err)
		}
		c, err := New(ctx, MemoryStore(), shards[:2],
			Options{Dialect: p.d, Modulo: 2, Refresh: -1, Lease: leaseForTests,
				Tables: []Table{{Name: "users", Key: []string{"id"}},
					{Name: "likes", Key: []string{"usr", "page"}, By: []string{"usr"}}}})
		require.NoError(t, err)
		defer c.Close()
		stop := errors.New("stop")
		n := 0
		_, err = c.FillSlots(ctx, FillOptions{Batch: 7, Key: func(by []any) (Key, error) {
			if n++; n > 30 {
				return Key{}, stop
			}
			return defaultKey(by)
		}})
		require.ErrorIs(t, err, stop)
		_, err = shards[1].DB.Exec(p.d.bind(`insert into users (id, name) values (?, 'meanwhile')`), 101)
		require.NoError(t, err)
		var calls int
		rep, err := c.FillSlots(ctx, FillOptions{Batch: 7, Progress: func(ID, string, int64) { calls++ }})
		require.NoError(t, err)
		require.Zero(t, rep.Misplaced)
		require.EqualValues(t, 201-28, rep.Rows, "what was filled before the stop stays so")
		require.Positive(t, calls)
		rep, err = c.FillSlots(ctx, FillOptions{})
		require.NoError(t, err)
		require.Zero(t, rep.Rows)
		if p.d.Name() == "postgres" {
			_, err = shards[0].DB.Exec(`insert into users (id, name) values (200, 'without')`)
			require.ErrorContains(t, err, "null value")
		}
		_, err = shards[2].DB.Exec(`drop table users`)
		require.NoError(t, err)
		_, err = shards[2].DB.Exec(`drop table likes`)
		require.NoError(t, err)
		for _, q := range []string{`create table users (id bigint primary key, name text not null, slot int not null)`,
			`create table likes (usr bigint, page varchar(50), n bigint not null, slot int not null, primary key (usr, page))`,
			`create index us on users (slot, id)`, `create index ls on likes (slot, usr, page)`} {
			if p.d.Name() == "sqlite" {
				q = strings.Replace(q, "slot int not null", "slot integer", 1)
			}
			_, err = shards[2].DB.Exec(q)
			require.NoError(t, err)
		}
		require.NoError(t, c.AddShard(shards[2]))
		plan, err := c.Plan(ctx, Change{Weights: map[ID]float64{"f0": 1, "f1": 1, "f2": 1}})
		require.NoError(t, err)
		j, err := c.Move(ctx, plan, MoveOptions{})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		a, err := c.Aggregate(ctx, AggregateQuery{Table: "likes"})
		require.NoError(t, err)
		require.EqualValues(t, 100, a.Count)
		require.NoError(t, c.Do(ctx, Int(77), func(ctx context.Context, db *sql.DB, s Slot) error {
			var name string
			require.NoError(t, db.QueryRow(p.d.bind(`select name from users where id = ? and slot = ?`), 77,
				int(s)).Scan(&name))
			require.Equal(t, "user77", name)
			return nil
		}))
	})
}

func TestMigrateAndDrift(t *testing.T) {
	eachPlace(t, func(t *testing.T, p *place) {
		w := newWorld(t, p, 2, 64, 10)
		ctx := t.Context()
		drift, err := w.c.Drift(ctx)
		require.NoError(t, err)
		require.Empty(t, drift)
		ms := []Migration{{ID: "1", SQL: []string{`alter table t add column extra int`}},
			{ID: "2", SQL: []string{`create index t_extra on t (extra)`}, NoTx: true}}
		_, err = w.shards[1].DB.Exec(`create table blocker (x int)`)
		require.NoError(t, err)
		bad := append(ms, Migration{ID: "3", SQL: []string{`alter table t add column more int`,
			`create table blocker (x int)`}})
		require.ErrorContains(t, w.c.Migrate(ctx, bad), "migration 3 on s1")
		drift, err = w.c.Drift(ctx)
		require.NoError(t, err)
		var says []string
		for _, d := range drift {
			says = append(says, d.String())
		}
		require.Len(t, drift, 4, "%v", says)
		require.Contains(t, drift[0].String(), "table t; [s")
		require.Equal(t, "migration 3; [s0]: done; [s1 s2]: missing", drift[3].String())
		_, err = w.shards[1].DB.Exec(`drop table blocker`)
		require.NoError(t, err)
		require.NoError(t, w.c.Migrate(ctx, bad), "it goes on where it stopped")
		require.NoError(t, w.c.Migrate(ctx, bad))
		drift, err = w.c.Drift(ctx)
		require.NoError(t, err)
		require.Empty(t, drift)
		bad[0].SQL[0] += " not null"
		require.ErrorIs(t, w.c.Migrate(ctx, bad), ErrMigration)
		require.Error(t, w.c.Migrate(ctx, []Migration{{ID: "x"}, {ID: "x"}}))
	})
}

func TestSuggest(t *testing.T) {
	everyPlace(t, func(t *testing.T, p *place) {
		w := newWorld(t, p, 2, 64, 600) // 300 rows and as many in u
		ctx := t.Context()
		plan, err := w.c.Suggest(ctx, Limits{Rows: 1000})
		require.NoError(t, err)
		require.Empty(t, plan.Moves, "nobody is over")
		use, err := w.c.Usage(ctx)
		require.NoError(t, err)
		require.Len(t, use, 3)
		require.EqualValues(t, 600, use[0].Rows+use[1].Rows)
		require.Positive(t, use[0].Bytes)
		require.InDelta(t, 1, use[0].Load+use[1].Load, 1e-9)
		plan, err = w.c.Suggest(ctx, Limits{Rows: 250})
		require.NoError(t, err)
		j, err := w.c.Move(ctx, plan, MoveOptions{})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		use, err = w.c.Usage(ctx)
		require.NoError(t, err)
		for _, u := range use {
			require.LessOrEqual(t, u.Rows, int64(210), u.Shard)
		}
		_, err = w.c.Suggest(ctx, Limits{Rows: 150})
		require.ErrorIs(t, err, ErrNoRoom)
		_, err = w.c.Suggest(ctx, Limits{Fill: 2})
		require.ErrorContains(t, err, "Fill")
	})
	hot, err := suggest(1, []Usage{{Shard: "a", Load: 0.9, slots: map[Slot]int64{1: 10, 2: 10, 3: 10}},
		{Shard: "b", Load: 0.1}}, map[Slot]float64{2: 0.5}, Limits{Load: 0.6, Fill: 1})
	require.NoError(t, err)
	require.Equal(t, []SlotMove{{1, "a", "b"}, {3, "a", "b"}}, hot.Moves,
		"the hottest fits nowhere else; the cold ones are enough")
}

// MariaDB commits at each change of the schema: a migration that fails is not noted as done.
func TestMigrateMariaDB(t *testing.T) {
	w := newWorld(t, mariadbPlace(t), 1, 16, 0)
	ctx := t.Context()
	m := []Migration{{ID: "1", SQL: []string{`alter table t add column if not exists extra int`,
		`create table blocker (x int)`}}}
	_, err := w.shards[0].DB.Exec(`create table blocker (x int)`)
	require.NoError(t, err)
	require.ErrorContains(t, w.c.Migrate(ctx, m), "migration 1 on s0")
	_, err = w.shards[0].DB.Exec(`drop table blocker`)
	require.NoError(t, err)
	require.NoError(t, w.c.Migrate(ctx, m))
	require.NoError(t, w.c.Migrate(ctx, m))
	drift, err := w.c.Drift(ctx)
	require.NoError(t, err)
	require.Empty(t, drift)
}
