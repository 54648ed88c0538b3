package shard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// The state tables and triggers of a build before slots had epochs.
func TestUpgrade(t *testing.T) {
	testdb.On(t, testdb.Two, func(t *testing.T, p *testdb.Kind) {
		w := &world{p: p}
		for _, name := range []string{"s0", "s1"} {
			db := p.Open(name)
			w.shards = append(w.shards, Shard{ID: ID(name), DB: db})
			ddl := append(p.DDL, `create table tk_slot (slot int primary key, state text not null)`,
				`create table tk_mover (id int primary key, token bigint not null)`,
				`insert into tk_mover values (1, 0)`)
			if p.Name() == "postgres" {
				ddl = append(ddl, `create table tk_dirty (seq bigserial primary key, tbl text not null,
					slot int not null, pk jsonb not null)`, `create table tk_pin (hashed int not null,
						by jsonb not null, slot int not null, primary key (hashed, by))`,
					`create table tk_job (job text, tbl text, place text not null, primary key (job, tbl))`,
					`create function tk_guard() returns trigger language plpgsql as $$ begin raise 'the old guard';
						end $$`, `create trigger zz_tk_insert before insert on t
							for each row execute function tk_guard()`)
			} else {
				ddl = append(ddl, `create table tk_dirty (seq integer primary key autoincrement, tbl text not null,
					slot integer not null, pk text not null)`, `create table tk_pin (hashed integer not null,
						by text not null, slot integer not null, primary key (hashed, by))`,
					`alter table tk_mover add column active integer not null default 0`,
					`create table tk_job (job text, tbl text, place text not null, primary key (job, tbl))`)
			}
			for _, q := range ddl {
				_, err := db.Exec(q)
				require.NoError(t, err, q)
			}
		}
		ctx := t.Context()
		if p.Name() == "postgres" { // the tables are in use
			tx, err := w.shards[0].DB.Begin()
			require.NoError(t, err)
			_, err = tx.Exec(`select * from tk_slot for share`)
			require.NoError(t, err)
			_, err = tx.Exec(`insert into tk_dirty (tbl, slot, pk) values ('t', 100, '[]')`)
			require.NoError(t, err)
			time.AfterFunc(400*time.Millisecond, func() { _ = tx.Rollback() }) // longer than one attempt waits
		}
		c, err := New(ctx, MemoryStore(), w.shards,
			Options{Dialect: Dialect{p.Database}, Tables: testTables, Slots: 16, Refresh: -1, MapTTL: leaseForTests})
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Guard(ctx))
		if p.Name() == "postgres" {
			var indexed bool
			require.NoError(t, w.shards[0].DB.QueryRow(
				`select exists (select 1 from pg_index where indrelid = 'tk_dirty'::regclass)`).Scan(&indexed))
			require.False(t, indexed)
		}
		require.NoError(t, c.Tx(ctx, Int(1), nil, func(tx *Tx) error {
			_, err := tx.Exec(p.Bind(`insert into t (id, slot, v) values (1, ?, 1)`), int(tx.Slot()))
			return err
		}))
		j, err := c.Move(ctx, Plan{Epoch: c.Map().Epoch(),
			Moves: []SlotMove{{c.Slot(Int(1)), c.Map().Owner(c.Slot(Int(1))),
				map[ID]ID{"s0": "s1", "s1": "s0"}[c.Map().Owner(c.Slot(Int(1)))]}}}, MoveOptions{})
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
	})
}
