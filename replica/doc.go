// Package replica makes one *sql.DB out of a primary and its replicas.
//
// The problem: the database is too slow to read, so it gets replicas, and now every query needs an answer to
// five questions. May it run on a replica at all? Which replica is alive? Has that replica already seen what this
// user has just written? What happens when all replicas are gone, and what when the primary is? A [Cluster] is a
// driver.Connector that answers them below database/sql, so sqlx, sqlc, ent, bun, gorm and plain code stay as they are.
//
//	package main
//
//	import (
//		"context"
//		"log"
//
//		"github.com/jackc/pgx/v5"
//		"github.com/jackc/pgx/v5/stdlib"
//		"github.com/tierkit/tierkit/replica"
//	)
//
//	func main() {
//		var nodes []replica.Node
//		for _, host := range []string{"db1", "db2", "db3"} { // roles are discovered, in any order
//			cfg, err := pgx.ParseConfig("postgres://app@" + host + "/app")
//			if err != nil {
//				log.Fatal(err)
//			}
//			nodes = append(nodes, replica.Node{Name: host, Connector: stdlib.GetConnector(*cfg)})
//		}
//		cluster, err := replica.New(replica.Postgres(), nodes, replica.Options{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer cluster.Close()
//		ctx := replica.WithSession(context.Background(), replica.NewSession()) // read your own writes
//		cluster.DB().ExecContext(ctx, `insert into t values (1)`)              // the primary
//		cluster.DB().QueryContext(ctx, `select * from t`)                      // a replica that has the row
//	}
//
// # What goes where
//
// A one-pass lexer per dialect reads each new query text once and remembers its class. A replica is chosen only for
// what is known to be read-only: SELECT, VALUES, TABLE or WITH without a writing word, INTO, a row lock, a second
// statement, or a call of a volatile function. What is not known goes to the primary. Overrides are made through the
// context ([Primary], [Replica], [MaxLag]), never through comments in SQL. [Cluster.Explain] says why.
//
// Transactions stay on one physical connection; a read-only transaction (sql.TxOptions.ReadOnly) runs on one replica.
// Session state (SET, temporary tables, advisory locks, LISTEN, GET_LOCK) pins the connection it was made on
// to the logical connection until that is closed, so use a *sql.Conn for it, as with any pool.
//
// # Freshness
//
// A [Session] remembers the position of its last write and of its last read. A read goes to a replica that was seen
// past that position, else it waits on one for at most Options.WaitBudget, else it goes to the primary. [Tokens]
// carries the session from request to request in a signed cookie or header.
//
// # Roles and failover
//
// Probes tell roles, and nothing else does. The highest timeline that a primary or a standby reports is the cluster's:
// a primary on a lower one is a former one and is neither written nor read, a standby that went on replaying its log is
// fenced too, and with two primaries on one timeline writes are refused ([ErrSplitBrain]). A node that was added or
// comes back serves reads once it has what the primary had at that moment.
//
// Promotion is off unless [Options.Promotion] is set. It takes the lease, gives up if a majority of the standbys still
// hears from the primary (then it is this process that is cut off), cuts replication on all standbys, promotes the one
// that received most, and points the others to it.
//
// # Servers
//
// Tested with PostgreSQL 15 through pgx and lib/pq, MariaDB 10.11 and MySQL 5.6; sqlx, gorm, bun and code in the manner
// of sqlc run on it unchanged. Later versions of MySQL are asked with wait_for_executed_gtid_set and, from 8.0.23 on,
// told in the new words of replication, both written from the manual.
//
// # What a library cannot do
//
// It cannot fence a host: a primary that is cut off from the cluster but not from its clients goes on accepting their
// writes until somebody stops it. Promotion first cuts replication on the standbys, so with synchronous replication the
// old primary can no longer acknowledge; with asynchronous replication acknowledged writes can be lost, and
// [Promotion.MaxLossBytes] says how many bytes you accept. It cannot undo such a loss: [Cluster.RecoveryPlan] prints
// what to do. Multi-primary is not a goal.
package replica
