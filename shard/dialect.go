package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// States of a slot in a shard's tk_slot table. The map store says who owns a slot; these rows make the database enforce
// it.
//
//	state      client writes       reads in Tx   becomes
//	owned      pass                pass          capture
//	capture    pass, keys noted    pass          fenced, or owned again (abort); on PostgreSQL also see tk_quick
//	fenced     refused             pass          left, or capture again (differences found)
//	left       refused             refused       gone, or owned again (rollback); the rows are still here
//	gone       refused             refused       importing
//	importing  refused             refused       owned, or gone again (abort)
const (
	stateOwned     = "owned"
	stateCapture   = "capture"
	stateFenced    = "fenced"
	stateLeft      = "left"
	stateGone      = "gone"
	stateImporting = "importing"
)

// Dialect is the SQL of one kind of database: state tables, guard triggers, locking, keyset reads. Only this package
// implements it.
type Dialect interface {
	// Name is short and stable: "postgres", "sqlite".
	Name() string
	// IsFenced reports whether the error of a statement is the guard's refusal.
	IsFenced(err error) bool
	// IsRetryable reports a serialisation failure or lock timeout: the transaction was rolled back and may be repeated.
	IsRetryable(err error) bool

	// bind rewrites ? placeholders.
	bind(query string) string
	quote(name string) string
	textKey() string  // a type of text that can be a primary key
	longText() string // one without a bound
	ddlInTx() bool    // changes of the schema are part of transactions
	// slotState is what the shard says of a key's slot; by are the key's parts, which matter if keys of the slot are
	// pinned.
	slotState(ctx context.Context, tx *sql.Tx, s Slot, by []string, readOnly bool) (slotRow, error)
	// prepare creates the state tables and a row for each slot.
	prepare(ctx context.Context, tx *sql.Tx, slots int, owned []Slot) error
	// begin starts a mover's transaction: the guards let it pass, locks are waited for at most lockTimeout, and it
	// fails with ErrMoverLost when this database has seen a higher token.
	begin(ctx context.Context, db *sql.DB, token uint64, lockTimeout time.Duration) (*sql.Tx, error)
	commit(ctx context.Context, tx *sql.Tx) error
	abort(tx *sql.Tx) // instead of commit
	// install makes guards outside of a transaction, before slots change their states, where guards cannot make them in
	// one.
	install(ctx context.Context, db *sql.DB, tables []*tableInfo) error
	// columns is describe without the demands on the table.
	columns(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error)
	describe(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error)
	// lockTables waits for writers that began before the guards were there.
	lockTables(ctx context.Context, tx *sql.Tx, tables []*tableInfo) error
	guards(ctx context.Context, tx *sql.Tx, tables []*tableInfo) error
	// hasten lets the guards that are made next note keys of these slots, which are in stateCapture, without a lock on
	// the slots' states, where the dialect can. slow takes that back. Between slow and another state the transactions
	// that writing names have to end, or the tables to be locked.
	hasten(ctx context.Context, tx *sql.Tx, slots []Slot) error
	slow(ctx context.Context, tx *sql.Tx, tables []*tableInfo, slots []Slot) error
	// writing names the transactions that may have written to the tables and are in flight; a name is not used again
	// soon.
	writing(ctx context.Context, tx *sql.Tx, tables []*tableInfo) ([]string, error)
	// touch makes transactions that share the slot's row, or have an older snapshot of it, end first or fail.
	touch(ctx context.Context, tx *sql.Tx, s Slot) error
	// pin gives the rows of one key a slot of their own on the shard where they are, and makes the guards refuse the
	// old slot for them.
	pin(ctx context.Context, tx *sql.Tx, tables []*tableInfo, old, slot Slot, by string) error
	setState(ctx context.Context, tx *sql.Tx, slots []Slot, state string) error
	// own sets stateOwned or stateCapture, and the epoch since when.
	own(ctx context.Context, tx *sql.Tx, slots []Slot, state string, since uint64) error

	chunk(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, after string, n int) (rows []row, next string,
		err error)
	// dirty returns keys that changed since they were captured; forget deletes exactly these entries.
	dirty(ctx context.Context, tx *sql.Tx, slots []Slot, n int) ([]dirtyKey, error)
	forget(ctx context.Context, tx *sql.Tx, keys []dirtyKey) error
	tidy(ctx context.Context, db *sql.DB) error                      // after many were forgotten
	forgetSlots(ctx context.Context, tx *sql.Tx, slots []Slot) error // all entries of the slots
	// place is how far the copy of a table came, "" at the start. dropPlaces takes a LIKE pattern.
	place(ctx context.Context, tx *sql.Tx, job, table string) (string, error)
	setPlace(ctx context.Context, tx *sql.Tx, job, table, place string) error
	dropPlaces(ctx context.Context, tx *sql.Tx, job string) error
	current(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) ([]row, error) // those that exist
	upsert(ctx context.Context, tx *sql.Tx, t *tableInfo, rows []row) error
	remove(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) error
	sums(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, into map[Slot]string) error
	clear(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, n int) (int64, error)
	inSlots(column string, arg int) string // a condition whose argument is slotList(slots)
	slotList(slots []Slot) string

	// addSlotColumn and its index, without keeping writers out for long; requireSlot makes it NOT NULL where that can
	// be done online.
	addSlotColumn(ctx context.Context, db *sql.DB, t *tableInfo) error
	requireSlot(ctx context.Context, db *sql.DB, t *tableInfo) error
	// unslotted reads rows without a slot: their keys and the columns of By, as JSON arrays.
	unslotted(ctx context.Context, tx *sql.Tx, t *tableInfo, n int) (pks, by []string, err error)
	fillSlots(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string, slots []Slot) (int64, error)
	// all rows of a table without slots; lockReferences lets one transaction at a time replace them.
	all(ctx context.Context, tx *sql.Tx, t *tableInfo) ([]row, error)
	// snapshot makes all reads of the transaction see one state.
	snapshot(ctx context.Context, tx *sql.Tx) error
	lockReferences(ctx context.Context, tx *sql.Tx) error
	// bytes is the size of the database with its indexes.
	bytes(ctx context.Context, db *sql.DB) (int64, error)
}

// dirtyKey is one entry of tk_dirty.
type dirtyKey struct {
	seq   int64
	at    string // PostgreSQL: where it lies
	table string
	slot  Slot
	pk    string
}

func readDirty(ctx context.Context, tx *sql.Tx, d Dialect, slots []Slot, n int) (keys []dirtyKey, err error) {
	rows, err := tx.QueryContext(ctx, `select seq, tbl, slot, pk from tk_dirty where `+d.inSlots("slot", 1)+
		` order by seq limit `+strconv.Itoa(n), d.slotList(slots))
	err = each(rows, err, func() error {
		var k dirtyKey
		err := rows.Scan(&k.seq, &k.table, &k.slot, &k.pk)
		keys = append(keys, k)
		return err
	})
	return keys, err
}

// each calls f for every row of a query that may have failed, and closes it.
func each(rows *sql.Rows, err error, f func() error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// readColumns takes name and type of each column in their order.
func readColumns(t Table, rows *sql.Rows, err error) (*tableInfo, error) {
	info := &tableInfo{Table: t}
	err = each(rows, err, func() error {
		var c column
		err := rows.Scan(&c.name, &c.typ)
		info.cols = append(info.cols, c)
		return err
	})
	if err == nil && len(info.cols) == 0 {
		err = fmt.Errorf("%w: there is no table %s", ErrPreflight, t.Name)
	}
	return info, err
}

// readSums takes slot and checksum of the rows of a table.
func readSums(t *tableInfo, into map[Slot]string, rows *sql.Rows, err error) error {
	return each(rows, err, func() error {
		var s Slot
		var sum string
		err := rows.Scan(&s, &sum)
		into[s] += t.Name + "=" + sum + ";"
		return err
	})
}

// lockedNotes is what a dialect has whose guards always lock the state of a slot that moves.
type lockedNotes struct{}

func (lockedNotes) hasten(context.Context, *sql.Tx, []Slot) error             { return nil }
func (lockedNotes) slow(context.Context, *sql.Tx, []*tableInfo, []Slot) error { return nil }
func (lockedNotes) tidy(context.Context, *sql.DB) error                       { return nil }
func (lockedNotes) writing(context.Context, *sql.Tx, []*tableInfo) ([]string, error) {
	return nil, nil
}

// inTx runs f in a transaction.
func inTx(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// createTable makes a table that is not there. Another process may make it at the same moment, which "if not exists"
// does not reckon with.
func createTable(ctx context.Context, db *sql.DB, table string) error {
	_, err := db.ExecContext(ctx, `create table if not exists `+table)
	if err != nil {
		if _, again := db.ExecContext(ctx, `create table if not exists `+table); again == nil {
			return nil
		}
	}
	return err
}

func deleteDirty(ctx context.Context, tx *sql.Tx, keys []dirtyKey) error {
	seqs := make([]string, len(keys))
	for i, k := range keys {
		seqs[i] = strconv.FormatInt(k.seq, 10)
	}
	_, err := tx.ExecContext(ctx, `delete from tk_dirty where seq in (`+strings.Join(seqs, ",")+`)`)
	return err
}

// places are the statements about tk_job, alike in all dialects.
type places struct{ bind func(string) string }

func (p places) place(ctx context.Context, tx *sql.Tx, job, table string) (place string, err error) {
	err = tx.QueryRowContext(ctx, p.bind(`select place from tk_job where job = ? and tbl = ?`), job, table).Scan(&place)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return place, err
}

func (p places) setPlace(ctx context.Context, tx *sql.Tx, job, table, place string) error {
	_, err := tx.ExecContext(ctx, p.bind(`delete from tk_job where job = ? and tbl = ?`), job, table)
	if err == nil {
		_, err = tx.ExecContext(ctx, p.bind(`insert into tk_job (job, tbl, place) values (?, ?, ?)`), job, table, place)
	}
	return err
}

func (p places) dropPlaces(ctx context.Context, tx *sql.Tx, job string) error {
	_, err := tx.ExecContext(ctx, p.bind(`delete from tk_job where job like ?`), job)
	return err
}

// row is one row on its way.
type row struct {
	pk   string // JSON array of the key columns
	slot Slot
	json string // PostgreSQL
	vals []any  // SQLite
}

// tableInfo is a managed table as the database describes it.
type tableInfo struct {
	Table
	cols []column
	keys []column
	by   []column
}

type column struct{ name, typ string }

// fingerprint changes with the schema as far as rows depend on it.
func (t *tableInfo) fingerprint() string {
	var b strings.Builder
	for _, c := range t.cols {
		fmt.Fprintf(&b, "%s %s;", c.name, c.typ)
	}
	return b.String()
}

func (t *tableInfo) sameSchema(o *tableInfo) bool {
	if len(t.cols) != len(o.cols) {
		return false
	}
	have := map[column]bool{}
	for _, c := range t.cols {
		have[c] = true
	}
	for _, c := range o.cols {
		if !have[c] {
			return false
		}
	}
	return true
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func names(cols []column, each func(string) string) string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = each(quote(c.name))
	}
	return strings.Join(out, ", ")
}

// values are the columns that are not keys.
func (t *tableInfo) values() (out []column) {
	for _, c := range t.cols {
		key := false
		for _, k := range t.keys {
			key = key || k.name == c.name
		}
		if !key {
			out = append(out, c)
		}
	}
	return out
}

func (t *tableInfo) upsertTail() string {
	vals := t.values()
	if len(vals) == 0 {
		return " on conflict (" + names(t.keys, ident) + ") do nothing"
	}
	return " on conflict (" + names(t.keys, ident) + ") do update set " + names(vals, func(c string) string {
		return c + " = excluded." + c
	})
}

func ident(s string) string { return s }

// findKeys orders the key columns as Table.Key has them.
func (t *tableInfo) findKeys() error {
	slot := false
	for _, c := range t.cols {
		slot = slot || strings.EqualFold(c.name, t.SlotColumn)
	}
	if !slot {
		return fmt.Errorf("%w: table %s has no column %s", ErrPreflight, t.Name, t.SlotColumn)
	}
	return t.findColumns()
}

// findColumns finds Key and By.
func (t *tableInfo) findColumns() error {
	find := func(want []string) (out []column, err error) {
		for _, k := range want {
			i := slices.IndexFunc(t.cols, func(c column) bool { return strings.EqualFold(c.name, k) })
			if i < 0 {
				return nil, fmt.Errorf("%w: table %s has no column %s", ErrPreflight, t.Name, k)
			}
			out = append(out, t.cols[i])
		}
		return out, nil
	}
	var err error
	if t.keys, err = find(t.Key); err != nil {
		return err
	}
	t.by, err = find(t.By)
	return err
}

func joinSlots(slots []Slot) string {
	b := make([]byte, 0, 6*len(slots))
	for i, s := range slots {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(s), 10)
	}
	return string(b)
}

func jsonList(pks []string) string { return "[" + strings.Join(pks, ",") + "]" }

func sqlState(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}
