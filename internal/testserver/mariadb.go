package testserver

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // driver "mysql"
)

// MariaDBOptions describe a primary with GTID replicas.
type MariaDBOptions struct {
	Replicas int
	// Args are further arguments of mariadbd on all nodes.
	Args []string
}

// MariaDBCluster is a primary and its replicas.
type MariaDBCluster struct {
	// Nodes[0] is the first primary.
	Nodes []*MariaDBNode
}

// Primary is the first node.
func (c *MariaDBCluster) Primary() *MariaDBNode { return c.Nodes[0] }

// MariaDBNode is one server with a database "test".
type MariaDBNode struct {
	Process
	Name string
	mu   sync.Mutex
	db   *sql.DB
}

var mariaTemplate template

// The users are made on every node outside the binary log: "app" respects read_only, root does not.
const mariaInit = `set sql_log_bin = 0;
create user if not exists 'root'@'127.0.0.1';
grant all on *.* to 'root'@'127.0.0.1' with grant option;
create database if not exists test;
create user if not exists 'app'@'127.0.0.1';
grant all on test.* to 'app'@'127.0.0.1';
grant binlog monitor, slave monitor on *.* to 'app'@'127.0.0.1';
`

// MariaDB starts a primary and its replicas; they end with the test.
func MariaDB(t testing.TB, o MariaDBOptions) *MariaDBCluster {
	t.Helper()
	server, install := find("mariadbd", "/usr/sbin", "/usr/libexec"), find("mariadb-install-db", "/usr/bin")
	if server == "" || install == "" {
		missing(t, "MariaDB", "apt-get install mariadb-server")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*startTimeout)
	defer cancel()
	cred := credential("mysql")
	fail := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	// A server that starts removes the temporary tables it finds in its tmpdir, those of the others in /tmp too: each has its own.
	fill := func(dir string) error {
		if err := run(ctx, dir, cred, install, "--no-defaults", "--datadir="+dir, "--tmpdir="+dir, "--auth-root-authentication-method=normal", "--skip-test-db"); err != nil {
			return err
		}
		path := filepath.Join(dir, "tierkit-init.sql")
		if err := os.WriteFile(path, []byte(mariaInit), 0o600); err != nil {
			return err
		}
		return chown(path, cred)
	}
	c := &MariaDBCluster{}
	for i := range o.Replicas + 1 {
		dir, err := newDir("mariadb", cred)
		fail(err)
		fail(mariaTemplate.copyTo(dir, cred, fill))
		n := &MariaDBNode{Name: "m" + strconv.Itoa(i)}
		n.Process.name, n.dir, n.cred, n.port = "mariadbd", dir, cred, freePort()
		n.argv = append([]string{server, "--no-defaults", "--datadir=" + dir, "--tmpdir=" + dir, "--port=" + strconv.Itoa(n.port), "--bind-address=127.0.0.1",
			"--socket=mysqld.sock", "--pid-file=mysqld.pid", "--server-id=" + strconv.Itoa(i+1), "--log-bin=bin", "--log-slave-updates",
			"--gtid-strict-mode=1", "--skip-name-resolve", "--skip-slave-start=0", "--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0",
			"--innodb-buffer-pool-size=32M", "--performance-schema=0", "--slave-net-timeout=10", "--init-file=tierkit-init.sql", "--master-retry-count=0"}, o.Args...)
		n.ready = func(ctx context.Context) error { return n.DB().PingContext(ctx) }
		t.Cleanup(func() {
			n.closeDB()
			n.remove()
		})
		c.Nodes = append(c.Nodes, n)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(c.Nodes))
	for i, n := range c.Nodes {
		wg.Go(func() { errs[i] = n.Start(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		fail(err)
	}
	for _, n := range c.Nodes[1:] {
		fail(n.Follow(ctx, c.Nodes[0]))
	}
	return c
}

// DSN is for the unprivileged user "app" in the database "test"; it respects read_only.
func (n *MariaDBNode) DSN() string { return "app@tcp(" + n.Addr() + ")/test?parseTime=true" }

// AdminDSN is for root, who does not respect read_only.
func (n *MariaDBNode) AdminDSN() string { return "root@tcp(" + n.Addr() + ")/test?parseTime=true" }

// ConnInfo is host:port:user:password for replicas of this node.
func (n *MariaDBNode) ConnInfo() string { return fmt.Sprintf("127.0.0.1:%d:root:", n.port) }

// DB is a pool of root connections, closed with the test.
func (n *MariaDBNode) DB() *sql.DB {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.db == nil {
		n.db, _ = sql.Open("mysql", n.AdminDSN())
	}
	return n.db
}

func (n *MariaDBNode) closeDB() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.db != nil {
		_ = n.db.Close()
		n.db = nil
	}
}

// Follow makes the node a read-only replica of another and waits until it runs.
func (n *MariaDBNode) Follow(ctx context.Context, primary *MariaDBNode) error {
	for _, q := range []string{
		"set global read_only = 1", "stop slave",
		fmt.Sprintf("change master to master_host='127.0.0.1', master_port=%d, master_user='root', master_use_gtid=slave_pos, master_connect_retry=1", primary.port),
		"start slave",
	} {
		if _, err := n.DB().ExecContext(ctx, q); err != nil {
			return fmt.Errorf("testserver: %s: %w", q, err)
		}
	}
	for {
		var v, state string
		err := n.DB().QueryRowContext(ctx, "show global status like 'Slave_running'").Scan(&v, &state)
		if err == nil && state == "ON" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("testserver: replica does not run: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Promote makes a replica a primary.
func (n *MariaDBNode) Promote(ctx context.Context) error {
	for _, q := range []string{"stop slave", "reset slave all", "set global read_only = 0"} {
		if _, err := n.DB().ExecContext(ctx, q); err != nil {
			return fmt.Errorf("testserver: %s: %w", q, err)
		}
	}
	return nil
}
