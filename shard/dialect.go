package shard

import (
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/mariadb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/postgres"
	"github.com/tierkit/tierkit/shard/internal/sqldb/sqlite"
)

// Dialect is the SQL of one kind of database: state tables, guard triggers, locking, keyset reads. Postgres, MariaDB
// and SQLite return the ones there are. The zero value is none.
type Dialect struct{ db sqldb.Dialect }

// Postgres is the dialect of PostgreSQL 12 and later.
//
// The guard is a row trigger per table. While a slot is copied it notes the key of a row; around the fence it locks the
// slot's state shared, so that the fence waits for writers in flight and older snapshots fail with 40001. Rows of other
// slots pay for one bit test on INSERT, and on UPDATE and DELETE only during moves. A row whose slot is NULL or does
// not exist is refused, and TRUNCATE is while any slot is moving or elsewhere.
//
// Before a fence the mover waits for transactions that are writing to the tables, as CREATE INDEX CONCURRENTLY does: no
// writer waits for that, but it takes as long as the longest such transaction. The mover's transactions commit
// synchronously whatever the database's default is, so that a promoted synchronous standby keeps the fence.
//
// The guards need plpgsql, and a mover that owns the tables. Writers need no rights on the state tables but those that
// PUBLIC is given: to read and to lock slot states and pins, and to note keys.
func Postgres() Dialect { return Dialect{postgres.New()} }

// MariaDB is the dialect of MariaDB 10.6 and later with InnoDB, for the driver github.com/go-sql-driver/mysql. It is
// not tested with MySQL.
//
// The guards are permanent BEFORE triggers that lock the slot's state shared. Compared with PostgreSQL, each write pays
// for the lookup of its slot's state, with or without a move; lock timeouts are in whole seconds, so a fence makes
// writers wait for up to one; TRUNCATE and cascades of foreign keys fire no triggers and are not noticed (the
// verification behind the fence compares the slots that were written to, and stops a move that they made wrong).
// binlog_format must be ROW or MIXED. Keys must not be binary, and tables need no unique index beside the key on which
// rows of different slots could collide.
func MariaDB() Dialect { return Dialect{mariadb.New()} }

// SQLite is the dialect of SQLite 3.35 and later. Open the database so that transactions begin immediately
// (modernc.org/sqlite: _txlock=immediate), else one that reads first may fail with SQLITE_BUSY.
//
// Rows that INSERT OR REPLACE removes for a conflict on another unique index than the key are not captured, unless
// PRAGMA recursive_triggers is on. Keys must not be BLOBs.
func SQLite() Dialect { return Dialect{sqlite.New()} }

// Name returns "postgres", "mariadb" or "sqlite", and "" for the zero value.
func (d Dialect) Name() string {
	if d.db == nil {
		return ""
	}
	return d.db.Name()
}

// IsFenced reports whether err is a guard's refusal: the slot of a row is being handed over, or is on another shard.
// The statement did nothing.
func (d Dialect) IsFenced(err error) bool { return d.db != nil && d.db.IsFenced(err) }

// IsRetryable reports whether err is a serialization failure, deadlock or lock timeout: the transaction was rolled back
// and may be repeated.
func (d Dialect) IsRetryable(err error) bool { return d.db != nil && d.db.IsRetryable(err) }

// spec is the table as package sqldb has it.
func (t Table) spec() sqldb.TableSpec {
	return sqldb.TableSpec{Name: t.Name, Key: t.Key, By: t.By, SlotColumn: t.SlotColumn}
}

// specs are the managed tables.
func (o *Options) specs() (out []sqldb.TableSpec) {
	for _, t := range o.Tables {
		out = append(out, t.spec())
	}
	return out
}
