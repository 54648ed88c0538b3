package schema

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/testcluster"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// A fleet of id % 2 without slots becomes one that can be resharded, while it is written to.
func TestFillSlots(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		ctx := t.Context()
		var shards []shard.Shard
		for i := range 3 {
			db := p.Open(fmt.Sprint("f", i))
			_, err := db.Exec(`create table users (id bigint primary key, name text not null)`)
			require.NoError(t, err)
			_, err = db.Exec(`create table likes (usr bigint, page varchar(50), n bigint not null,
				primary key (usr, page))`)
			require.NoError(t, err)
			shards = append(shards, shard.Shard{ID: shard.ID(fmt.Sprint("f", i)), DB: db})
		}
		for id := range 100 {
			db := shards[id%2].DB
			_, err := db.Exec(p.Bind(`insert into users values (?, ?)`), id, fmt.Sprint("user", id))
			require.NoError(t, err)
			_, err = db.Exec(p.Bind(`insert into likes values (?, ?, 1)`), id, "it's \"a\" page")
			require.NoError(t, err)
		}
		c, err := shard.New(ctx, shard.MemoryStore(), shards[:2],
			shard.Options{Dialect: testcluster.Dialect(p), Placement: shard.Modulo(2), Refresh: -1,
				MapTTL: testcluster.MapTTL,
				Tables: []shard.Table{{Name: "users", Key: []string{"id"}},
					{Name: "likes", Key: []string{"usr", "page"}, By: []string{"usr"}}}})
		require.NoError(t, err)
		defer c.Close()
		stop := errors.New("stop")
		n := 0
		_, err = FillSlots(ctx, c, FillOptions{Batch: 7, Key: func(by []any) (shard.Key, error) {
			if n++; n > 30 {
				return shard.Key{}, stop
			}
			return defaultKey(by)
		}})
		require.ErrorIs(t, err, stop)
		_, err = shards[1].DB.Exec(p.Bind(`insert into users (id, name) values (?, 'meanwhile')`), 101)
		require.NoError(t, err)
		var calls int
		rep, err := FillSlots(ctx, c, FillOptions{Batch: 7, Progress: func(shard.ID, string, int64) { calls++ }})
		require.NoError(t, err)
		require.Zero(t, rep.Misplaced)
		require.EqualValues(t, 201-28, rep.Rows, "what was filled before the stop stays so")
		require.Positive(t, calls)
		rep, err = FillSlots(ctx, c, FillOptions{})
		require.NoError(t, err)
		require.Zero(t, rep.Rows)
		if p.Name() == "postgres" {
			_, err = shards[0].DB.Exec(`insert into users (id, name) values (200, 'without')`)
			require.ErrorContains(t, err, "null value")
		}
		_, err = shards[2].DB.Exec(`drop table users`)
		require.NoError(t, err)
		_, err = shards[2].DB.Exec(`drop table likes`)
		require.NoError(t, err)
		for _, q := range []string{`create table users (id bigint primary key, name text not null, slot int not null)`,
			`create table likes (usr bigint, page varchar(50), n bigint not null, slot int not null,
				primary key (usr, page))`,
			`create index us on users (slot, id)`, `create index ls on likes (slot, usr, page)`} {
			if p.Name() == "sqlite" {
				q = strings.Replace(q, "slot int not null", "slot integer", 1)
			}
			_, err = shards[2].DB.Exec(q)
			require.NoError(t, err)
		}
		require.NoError(t, c.AddShard(shards[2]))
		plan, err := c.Plan(ctx, shard.Change{Weights: map[shard.ID]float64{"f0": 1, "f1": 1, "f2": 1}})
		require.NoError(t, err)
		j, err := c.Move(ctx, plan, shard.MoveOptions{})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		a, err := c.Aggregate(ctx, shard.AggregateQuery{Table: "likes"})
		require.NoError(t, err)
		require.EqualValues(t, 100, a.Count)
		require.NoError(t, c.Do(ctx, shard.Int(77), func(ctx context.Context, db *sql.DB, s shard.Slot) error {
			var name string
			require.NoError(t, db.QueryRow(p.Bind(`select name from users where id = ? and slot = ?`), 77,
				int(s)).Scan(&name))
			require.Equal(t, "user77", name)
			return nil
		}))
	})
}

func TestMigrateAndDrift(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := testcluster.New(t, p, 2, 64)
		w.Fill(t, p, 10)
		ctx := t.Context()
		drift, err := Drift(ctx, w.Cluster)
		require.NoError(t, err)
		require.Empty(t, drift)
		ms := []Migration{{ID: "1", SQL: []string{`alter table t add column extra int`}},
			{ID: "2", SQL: []string{`create index t_extra on t (extra)`}, NoTx: true}}
		_, err = w.Shards[1].DB.Exec(`create table blocker (x int)`)
		require.NoError(t, err)
		bad := append(ms, Migration{ID: "3", SQL: []string{`alter table t add column more int`,
			`create table blocker (x int)`}})
		require.ErrorContains(t, Migrate(ctx, w.Cluster, bad), "migration 3 on s1")
		drift, err = Drift(ctx, w.Cluster)
		require.NoError(t, err)
		var says []string
		for _, d := range drift {
			says = append(says, d.String())
		}
		require.Len(t, drift, 4, "%v", says)
		require.Contains(t, drift[0].String(), "table t; [s")
		require.Equal(t, "migration 3; [s0]: done; [s1 s2]: missing", drift[3].String())
		_, err = w.Shards[1].DB.Exec(`drop table blocker`)
		require.NoError(t, err)
		require.NoError(t, Migrate(ctx, w.Cluster, bad), "it goes on where it stopped")
		require.NoError(t, Migrate(ctx, w.Cluster, bad))
		drift, err = Drift(ctx, w.Cluster)
		require.NoError(t, err)
		require.Empty(t, drift)
		bad[0].SQL[0] += " not null"
		require.ErrorIs(t, Migrate(ctx, w.Cluster, bad), ErrMigration)
		require.Error(t, Migrate(ctx, w.Cluster, []Migration{{ID: "x"}, {ID: "x"}}))
	})
}

// MariaDB commits at each change of the schema: a migration that fails is not noted as done.
func TestMigrateMariaDB(t *testing.T) {
	w := testcluster.New(t, testdb.MariaDB(t), 1, 16)
	ctx := t.Context()
	m := []Migration{{ID: "1", SQL: []string{`alter table t add column if not exists extra int`,
		`create table blocker (x int)`}}}
	_, err := w.Shards[0].DB.Exec(`create table blocker (x int)`)
	require.NoError(t, err)
	require.ErrorContains(t, Migrate(ctx, w.Cluster, m), "migration 1 on s0")
	_, err = w.Shards[0].DB.Exec(`drop table blocker`)
	require.NoError(t, err)
	require.NoError(t, Migrate(ctx, w.Cluster, m))
	require.NoError(t, Migrate(ctx, w.Cluster, m))
	drift, err := Drift(ctx, w.Cluster)
	require.NoError(t, err)
	require.Empty(t, drift)
}
func TestReferences(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := testcluster.New(t, p, 2, 16)
		ctx := t.Context()
		refs := []Reference{{Name: "countries", Key: []string{"code"}}, {Name: "prices", Key: []string{"code", "item"}}}
		for _, sh := range w.Shards {
			for _, q := range []string{`create table countries (code varchar(20) primary key, name text)`,
				`create table prices (code varchar(20) references countries (code), item int, cents int,
					primary key (code, item))`} {
				_, err := sh.DB.Exec(q)
				require.NoError(t, err)
			}
		}
		put := func(qs ...string) error {
			return UpdateReferences(ctx, w.Cluster, refs, func(tx *sql.Tx) error {
				for _, q := range qs {
					if _, err := tx.Exec(q); err != nil {
						return err
					}
				}
				return nil
			})
		}
		require.NoError(t, put(`insert into countries values ('de', 'Germany'), ('fr', 'France'), ('xx', null)`,
			`insert into prices values ('de', 1, 100), ('xx', 1, 5)`))
		require.NoError(t, put(`update prices set cents = 120 where code = 'de'`,
			`delete from prices where code = 'xx'`, `delete from countries where code = 'xx'`))
		for _, sh := range w.Shards {
			var n, cents int
			require.NoError(t, sh.DB.QueryRow(
				`select count(*), max(p.cents) from countries c left join prices p on p.code = c.code`).Scan(&n,
				&cents))
			require.Equal(t, []int{2, 120}, []int{n, cents}, sh.ID)
		}
		_, err := w.Shards[1].DB.Exec(`alter table countries add column extra int`)
		require.NoError(t, err)
		var e *shard.PartialError
		require.ErrorAs(t, put(`update countries set name = 'Frankreich' where code = 'fr'`), &e)
		require.Contains(t, e.Failed, shard.ID("s1"))
		require.Len(t, e.Failed, 1)
		_, err = w.Shards[1].DB.Exec(`alter table countries drop column extra`)
		require.NoError(t, err)
		require.NoError(t, SyncReferences(ctx, w.Cluster, refs))
		var name string
		require.NoError(t, w.Shards[1].DB.QueryRow(`select name from countries where code = 'fr'`).Scan(&name))
		require.Equal(t, "Frankreich", name)
		require.Error(t, SyncReferences(ctx, w.Cluster, []Reference{{Name: "x"}}))
	})
}
