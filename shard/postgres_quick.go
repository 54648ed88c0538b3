package shard

import (
	"context"
	"database/sql"
	"encoding/json"
	"strconv"
)

// A write of a slot that moves notes its key, and that is all it does while the slot is in tk_quick: the state of such
// a slot is capture, and is in the guards' functions. The lock on the slot's row that a fence needs costs as much again
// as the note.
//
//	tk_slot   tk_quick   a write of its rows                       becomes
//	capture   yes        notes its key                             capture without, by slow
//	capture   no         locks the state shared, notes its key     fenced, or owned again
//
// Who wants to change the state takes the slot out of tk_quick first, which writes the functions anew (slow), and then
// waits until those transactions have ended that may have used the old ones (writing). A writer locks its table in ROW
// EXCLUSIVE mode before it fires triggers, and keeps that lock until it ends (or rolls back to before it); having taken
// the lock it hears of functions that were committed before. So whoever has no such lock after the commit of slow will
// run the new function. That is how CREATE INDEX CONCURRENTLY waits for writers (WaitForLockers in
// src/backend/storage/lmgr/lmgr.c), and like there nobody has to wait for the waiting one. A fence then finds none but
// writers that lock the state. Changes of state that lock the tables, which the guards' first and last do, have waited
// by that.

// hasten puts slots in tk_quick; guards must follow in the same transaction, and what lockTables locks be locked.
func (d postgres) hasten(ctx context.Context, tx *sql.Tx, slots []Slot) error {
	_, err := tx.ExecContext(ctx, `insert into tk_quick select unnest($1::text::int[]) on conflict do nothing`,
		d.slotList(slots))
	return err
}

func (d postgres) slow(ctx context.Context, tx *sql.Tx, tables []*tableInfo, slots []Slot) error {
	res, err := tx.ExecContext(ctx, `delete from tk_quick where `+d.inSlots("slot", 1), d.slotList(slots))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	_, err = d.functions(ctx, tx, tables)
	return err
}

// writing counts prepared transactions too. Partitions can be written to without their parent being locked.
func (postgres) writing(ctx context.Context, tx *sql.Tx, tables []*tableInfo) (ids []string, err error) {
	var list []string
	for _, t := range tables {
		list = append(list, t.Name)
	}
	rows, err := tx.QueryContext(ctx, `with recursive t as (
select to_regclass(v)::oid id from jsonb_array_elements_text($1::text::jsonb) v
union select inhrelid from pg_inherits join t on inhparent = t.id)
select distinct virtualtransaction from pg_locks join t on relation = t.id
where locktype = 'relation' and database = (select oid from pg_database where datname = current_database())
and granted and mode = 'RowExclusiveLock' and pid is distinct from pg_backend_pid()`, jsonStrings(list))
	return ids, each(rows, err, func() error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
}

// dirty reads the table as it lies: an index would cost each write of a slot that moves a quarter of what its guard
// costs. tidy keeps it short.
func (d postgres) dirty(ctx context.Context, tx *sql.Tx, slots []Slot, n int) (keys []dirtyKey, err error) {
	rows, err := tx.QueryContext(ctx, `select ctid::text, seq, tbl, slot, pk from tk_dirty where `+d.inSlots("slot", 1)+
		` limit `+strconv.Itoa(n), d.slotList(slots))
	return keys, each(rows, err, func() error {
		var k dirtyKey
		err := rows.Scan(&k.at, &k.seq, &k.table, &k.slot, &k.pk)
		keys = append(keys, k)
		return err
	})
}

// forget finds the entries by where they lie, and looks whether they are the same: VACUUM FULL may have put another one
// there.
func (postgres) forget(ctx context.Context, tx *sql.Tx, keys []dirtyKey) error {
	at := make([]string, len(keys))
	seqs := make([]int64, len(keys))
	for i, k := range keys {
		at[i], seqs[i] = k.at, k.seq
	}
	seq, err := json.Marshal(seqs)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `delete from tk_dirty where ctid = any(array(select v::tid from jsonb_array_elements_text($1::text::jsonb) v))
and seq in (select v::bigint from jsonb_array_elements_text($2::text::jsonb) v)`, jsonStrings(at), string(seq))
	return err
}

func (postgres) tidy(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `vacuum (skip_locked, truncate false) tk_dirty`)
	return err
}

// dropDirtyIndex is for the table of a build that had one. Nobody can note a key meanwhile: the tables are locked.
func dropDirtyIndex(ctx context.Context, tx *sql.Tx) error {
	var have bool
	err := tx.QueryRowContext(ctx, `select exists (select 1 from pg_constraint where conrelid = 'tk_dirty'::regclass and conname = 'tk_dirty_pkey')`).Scan(&have)
	if err == nil && have {
		_, err = tx.ExecContext(ctx, `alter table tk_dirty drop constraint tk_dirty_pkey`)
	}
	return err
}
