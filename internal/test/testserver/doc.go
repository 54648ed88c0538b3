// Package testserver starts private real servers for tests: PostgreSQL with streaming standbys, MariaDB and MySQL with
// GTID replicas, and Redis, from the binaries on the machine, and NATS with JetStream embedded. Each has its own
// temporary directory and loopback port, so a test may kill, freeze, restart and promote it.
//
// Nothing survives a test: servers are stopped and removed by t.Cleanup, and a reaper process, which waits on a pipe
// that only the test process holds open, kills and removes everything when that process dies in any way, by kill -9
// too.
//
// When a binary is missing the test is skipped with one line that says what to install; with TIERKIT_REQUIRE_SERVERS=1
// it fails.
package testserver
