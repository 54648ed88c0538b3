package shard

// Dialect is the SQL of one kind of database: state tables, guard triggers, locking, keyset reads.
type Dialect interface {
	Name() string
	// IsFenced reports whether the error of a statement is the guard's refusal.
	IsFenced(err error) bool
	// IsRetryable reports a serialisation failure or lock timeout: the transaction was rolled back and may be repeated.
	IsRetryable(err error) bool
	sql() *dialectSQL
}

type dialectSQL struct{}

// Postgres is the dialect of PostgreSQL 12 and later.
func Postgres() Dialect { return nil }

// SQLite is the dialect of SQLite 3.35 and later.
func SQLite() Dialect { return nil }
