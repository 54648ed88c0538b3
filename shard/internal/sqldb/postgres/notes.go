package postgres

import (
	"context"
	"database/sql"
	"encoding/json"
	"strconv"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// A write of a slot that moves notes its key, and that is all it does while the slot is in tk_quick: the state of such
// a slot is capture, and is in the guards' functions. The lock on the slot's row that a fence needs costs as much again
// as the note.
//
//	tk_slot   tk_quick   a write of its rows                       becomes
//	capture   yes        notes its key                             capture without, by NoteLocked
//	capture   no         locks the state shared, notes its key     fenced, or owned again
//
// Before the state changes the slot is taken out of tk_quick, which writes the functions anew (NoteLocked), and then
// those transactions have to end that may have used the old ones (Writing). A writer locks its table in ROW EXCLUSIVE
// mode before it fires triggers, and keeps that lock until it ends (or rolls back to before it); having taken the lock
// it sees functions that were committed before. So a writer without such a lock after the commit of NoteLocked will run
// the new function. That is how CREATE INDEX CONCURRENTLY waits for writers (WaitForLockers in
// src/backend/storage/lmgr/lmgr.c), and as there no writer waits for the waiting one. A fence then finds only writers
// that lock the state. Changes of state that lock the tables, which the guards' first and last do, have waited by that.

const (
	insertQuick = `
insert into tk_quick
select unnest($1::text::int[])
on conflict do nothing`

	deleteQuick = `
delete from tk_quick
where slot = any($1::text::int[])`

	selectWriting = `
with recursive t as (
  select to_regclass(v)::oid id
  from jsonb_array_elements_text($1::text::jsonb) v
  union
  select inhrelid
  from pg_inherits
  join t on inhparent = t.id
)
select distinct virtualtransaction
from pg_locks
join t on relation = t.id
where locktype = 'relation'
and database = (select oid from pg_database where datname = current_database())
and granted
and mode = 'RowExclusiveLock'
and pid is distinct from pg_backend_pid()`

	selectDirty = `
select ctid::text, seq, tbl, slot, pk
from tk_dirty
where slot = any($1::text::int[])
limit {n}`

	deleteDirty = `
delete from tk_dirty
where ctid = any(array(select v::tid from jsonb_array_elements_text($1::text::jsonb) v))
and seq in (select v::bigint from jsonb_array_elements_text($2::text::jsonb) v)`

	deleteDirtySlots = `
delete from tk_dirty
where slot = any($1::text::int[])`

	vacuumDirty = `vacuum (skip_locked, truncate false) tk_dirty`
)

// NoteUnlocked implements sqldb.Mover: it puts slots in tk_quick. Guards must follow in the same transaction, and the
// tables be locked by LockTables.
func (Database) NoteUnlocked(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot) error {
	_, err := tx.ExecContext(ctx, insertQuick, slotList(slots))
	return err
}

// NoteLocked implements sqldb.Mover.
func (d Database) NoteLocked(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table, slots []sqldb.Slot) error {
	res, err := tx.ExecContext(ctx, deleteQuick, slotList(slots))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	_, err = d.functions(ctx, tx, tables)
	return err
}

// Writing implements sqldb.Mover. Prepared transactions count too. Partitions can be written to without a lock on their
// parent.
func (Database) Writing(ctx context.Context, tx *sql.Tx, tables []*sqldb.Table) (ids []string, err error) {
	var list []string
	for _, t := range tables {
		list = append(list, t.Name)
	}
	rows, err := tx.QueryContext(ctx, selectWriting, sqldb.JSONStrings(list))
	err = sqldb.Each(rows, err, func() error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

// Dirty implements sqldb.Notes. It reads the table in physical order: an index would cost each write of a slot that
// moves a quarter of what its guard costs. Tidy keeps the table short.
func (Database) Dirty(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot, n int) (keys []sqldb.DirtyKey, err error) {
	rows, err := tx.QueryContext(ctx, sqldb.Fill(selectDirty, "n", strconv.Itoa(n)), slotList(slots))
	err = sqldb.Each(rows, err, func() error {
		var k sqldb.DirtyKey
		err := rows.Scan(&k.At, &k.Seq, &k.Table, &k.Slot, &k.PK)
		keys = append(keys, k)
		return err
	})
	return keys, err
}

// Forget implements sqldb.Notes. It finds entries by ctid and compares seq: VACUUM FULL may have put another entry in
// the same place.
func (Database) Forget(ctx context.Context, tx *sql.Tx, keys []sqldb.DirtyKey) error {
	at := make([]string, len(keys))
	seqs := make([]int64, len(keys))
	for i, k := range keys {
		at[i], seqs[i] = k.At, k.Seq
	}
	seq, err := json.Marshal(seqs)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, deleteDirty, sqldb.JSONStrings(at), string(seq))
	return err
}

// ForgetSlots implements sqldb.Notes.
func (Database) ForgetSlots(ctx context.Context, tx *sql.Tx, slots []sqldb.Slot) error {
	_, err := tx.ExecContext(ctx, deleteDirtySlots, slotList(slots))
	return err
}

// Tidy implements sqldb.Notes.
func (Database) Tidy(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, vacuumDirty)
	return err
}
