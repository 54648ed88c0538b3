// Package sqldb is the SQL that sharding needs, as one interface over PostgreSQL, MariaDB and SQLite: the state of
// slots in a shard, the guards that enforce it, and the rows that a mover reads and writes. Each database has its
// package below this one; package dialects finds them by name.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/tierkit/tierkit/shard/internal/stored"
)

// Slot is a stored.Slot.
type Slot = stored.Slot

// SlotState is the state of a slot in a shard's table tk_slot. The map store says which shard owns a slot; these rows
// make the database enforce it.
//
//	state      client writes       reads in Tx   becomes
//	owned      pass                pass          capture
//	capture    pass, keys noted    pass          fenced, or owned again (abort); on PostgreSQL also see tk_quick
//	fenced     refused             pass          left, or capture again (differences found)
//	left       refused             refused       gone, or owned again (rollback); the rows are still here
//	gone       refused             refused       importing
//	importing  refused             refused       owned, or gone again (abort)
type SlotState string

const (
	Owned     SlotState = "owned"
	Capture   SlotState = "capture"
	Fenced    SlotState = "fenced"
	Left      SlotState = "left"
	Gone      SlotState = "gone"
	Importing SlotState = "importing"
)

// SlotRow is a shard's answer about one slot.
type SlotRow struct {
	State SlotState
	Since uint64 // epoch of the map by which the shard became its owner
}

// Owns reports whether the shard may be read: a fenced source still has the latest rows.
func (r SlotRow) Owns() bool { return r.State == Owned || r.State == Capture || r.State == Fenced }

// HasRows reports whether the rows of a slot that the shard owned before are still there.
func (r SlotRow) HasRows() bool { return r.Owns() || r.State == Left }

var (
	// ErrMoverLost is returned by Mover.Begin when the database has seen a higher token.
	ErrMoverLost = errors.New("shard: another mover took over")
	// ErrPreflight wraps what makes a table unfit to be moved.
	ErrPreflight = errors.New("shard: preflight failed")
)

// Dialect is what routing, transactions and movers need. Implementations are stateless and safe for concurrent use.
type Dialect interface {
	Text
	Errors
	Slots
	Mover
	Rows
	Notes
	Places
}

// Text writes parts of statements.
type Text interface {
	// Name is short and stable: "postgres", "mariadb", "sqlite".
	Name() string
	// Bind rewrites ? placeholders, and "on conflict" where the database has other words for it.
	Bind(query string) string
	Quote(name string) string
	TextKey() string  // a type of text that can be a primary key
	LongText() string // a type of text without a bound
	DDLInTx() bool    // changes of the schema are part of transactions
	// InSlots is a condition whose argument number arg is SlotList(slots).
	InSlots(column string, arg int) string
	SlotList(slots []Slot) string
}

// Errors classifies the errors of statements.
type Errors interface {
	// IsFenced reports whether a guard refused the statement.
	IsFenced(err error) bool
	// IsRetryable reports a serialization failure or lock timeout: the transaction was rolled back and may be repeated.
	IsRetryable(err error) bool
}

// Slots reads and changes the states of slots.
type Slots interface {
	// SlotState reads the state of a key's slot. by are the key's parts, which matter if keys of the slot are pinned:
	// the slot of such a key is Gone. Unless readOnly, the state is locked shared until tx ends.
	SlotState(ctx context.Context, tx *sql.Tx, s Slot, by []string, readOnly bool) (SlotRow, error)
	// Prepare creates the state tables and a row for each slot.
	Prepare(ctx context.Context, tx *sql.Tx, slots int, owned []Slot) error
	SetState(ctx context.Context, tx *sql.Tx, slots []Slot, state SlotState) error
	// Own sets Owned or Capture, and the epoch since when.
	Own(ctx context.Context, tx *sql.Tx, slots []Slot, state SlotState, since uint64) error
	// Touch makes transactions that share the slot's row, or have an older snapshot of it, end first or fail.
	Touch(ctx context.Context, tx *sql.Tx, s Slot) error
	// Pin gives the rows of one key a slot of their own on the shard where they are, and makes the guards refuse the
	// old slot for them. by is a JSON array of the key's parts.
	Pin(ctx context.Context, tx *sql.Tx, tables []*Table, p PinRow) error
}

// PinRow is a key's change of slot.
type PinRow struct {
	Old, Slot Slot
	By        string // JSON array of the key's parts
}

// Mover begins and ends a mover's transactions and makes the guards.
type Mover interface {
	// Begin starts a transaction that the guards let pass. Locks are waited for at most lockTimeout. It fails with
	// ErrMoverLost when this database has seen a higher token. End it with Commit or Abort.
	Begin(ctx context.Context, db *sql.DB, token uint64, lockTimeout time.Duration) (*sql.Tx, error)
	Commit(ctx context.Context, tx *sql.Tx) error
	Abort(tx *sql.Tx)
	// Describe reads a table's columns and refuses one that cannot be moved.
	Describe(ctx context.Context, tx *sql.Tx, t TableSpec) (*Table, error)
	// Install makes guards outside of a transaction, before slots change their states, where Guards cannot make them in
	// one.
	Install(ctx context.Context, db *sql.DB, tables []*Table) error
	// LockTables waits for writers that began before the guards were there.
	LockTables(ctx context.Context, tx *sql.Tx, tables []*Table) error
	Guards(ctx context.Context, tx *sql.Tx, tables []*Table) error
	// NoteUnlocked lets the guards that are made next note keys of these slots, which are in state Capture, without a
	// lock on the slots' states, where the dialect can. NoteLocked takes that back. Between NoteLocked and another
	// state the transactions that Writing names have to end, or the tables to be locked.
	NoteUnlocked(ctx context.Context, tx *sql.Tx, slots []Slot) error
	NoteLocked(ctx context.Context, tx *sql.Tx, tables []*Table, slots []Slot) error
	// Writing names the transactions that may have written to the tables and are in flight. A name is not used again
	// soon.
	Writing(ctx context.Context, tx *sql.Tx, tables []*Table) ([]string, error)
}

// Rows reads and writes rows of managed tables.
type Rows interface {
	// Chunk reads up to n rows of the slots in the order of slot and key, behind the place that the call before
	// returned as next; "" is the start.
	Chunk(ctx context.Context, tx *sql.Tx, t *Table, slots []Slot, after string, n int) (rows []Row, next string,
		err error)
	// Current reads the rows with these keys, as far as they exist.
	Current(ctx context.Context, tx *sql.Tx, t *Table, pks []string) ([]Row, error)
	Upsert(ctx context.Context, tx *sql.Tx, t *Table, rows []Row) error
	Remove(ctx context.Context, tx *sql.Tx, t *Table, pks []string) error
	// Sums adds a checksum of the table's rows to each slot's text in into.
	Sums(ctx context.Context, tx *sql.Tx, t *Table, slots []Slot, into map[Slot]string) error
	// Clear deletes up to n rows of the slots and returns how many.
	Clear(ctx context.Context, tx *sql.Tx, t *Table, slots []Slot, n int) (int64, error)
}

// Notes are the changed keys in tk_dirty.
type Notes interface {
	// Dirty returns up to n keys that changed since they were captured.
	Dirty(ctx context.Context, tx *sql.Tx, slots []Slot, n int) ([]DirtyKey, error)
	// Forget deletes exactly these entries, ForgetSlots all of the slots.
	Forget(ctx context.Context, tx *sql.Tx, keys []DirtyKey) error
	ForgetSlots(ctx context.Context, tx *sql.Tx, slots []Slot) error
	// Tidy gives the room of forgotten entries back.
	Tidy(ctx context.Context, db *sql.DB) error
}

// Places are how far the copy of a table came, in tk_job; "" at the start.
type Places interface {
	Place(ctx context.Context, tx *sql.Tx, job, table string) (string, error)
	SetPlace(ctx context.Context, tx *sql.Tx, job, table, place string) error
	// DropPlaces takes a LIKE pattern of jobs.
	DropPlaces(ctx context.Context, tx *sql.Tx, job string) error
}

// Database is a Dialect with what the packages around the core need: changes of the schema, whole tables, sizes.
type Database interface {
	Dialect
	// Columns is Describe without the demands on the table.
	Columns(ctx context.Context, tx *sql.Tx, t TableSpec) (*Table, error)
	// AddSlotColumn adds the slot column and its index, without keeping writers out for long. RequireSlot makes it NOT
	// NULL where that can be done online.
	AddSlotColumn(ctx context.Context, db *sql.DB, t *Table) error
	RequireSlot(ctx context.Context, db *sql.DB, t *Table) error
	// Unslotted reads up to n rows without a slot: their keys and the columns of By, as JSON arrays.
	Unslotted(ctx context.Context, tx *sql.Tx, t *Table, n int) (pks, by []string, err error)
	FillSlots(ctx context.Context, tx *sql.Tx, t *Table, pks []string, slots []Slot) (int64, error)
	// All reads all rows of a table without slots.
	All(ctx context.Context, tx *sql.Tx, t *Table) ([]Row, error)
	// Snapshot makes all reads of the transaction see one state. It must be the first statement.
	Snapshot(ctx context.Context, tx *sql.Tx) error
	// LockReferences lets one transaction at a time replace the rows of reference tables.
	LockReferences(ctx context.Context, tx *sql.Tx) error
	// Bytes is the size of the database with its indexes.
	Bytes(ctx context.Context, db *sql.DB) (int64, error)
}

// DirtyKey is one entry of tk_dirty.
type DirtyKey struct {
	Seq   int64
	At    string // PostgreSQL: its ctid
	Table string
	Slot  Slot
	PK    string
}

// Row is one row on its way.
type Row struct {
	PK   string // JSON array of the key columns
	Slot Slot
	JSON string // PostgreSQL
	Vals []any  // MariaDB, SQLite
}

// LockedNotes is embedded by dialects whose guards always lock the state of a slot that moves.
type LockedNotes struct{}

// NoteUnlocked does nothing.
func (LockedNotes) NoteUnlocked(context.Context, *sql.Tx, []Slot) error { return nil }

// NoteLocked does nothing.
func (LockedNotes) NoteLocked(context.Context, *sql.Tx, []*Table, []Slot) error { return nil }

// Tidy does nothing.
func (LockedNotes) Tidy(context.Context, *sql.DB) error { return nil }

// Writing names no transaction.
func (LockedNotes) Writing(context.Context, *sql.Tx, []*Table) ([]string, error) { return nil, nil }
