package testserver

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
)

// PostgresOptions describe a cluster.
type PostgresOptions struct {
	// Standbys is the number of streaming standbys, made with pg_basebackup.
	Standbys int
	// Config are settings of all nodes, such as "synchronous_commit".
	Config map[string]string
	// Synchronous is synchronous_standby_names, set once the standbys stream. They are named s1, s2, ...: "ANY 1 (s1,
	// s2)".
	Synchronous string
	// Fsync keeps fsync on, for measurements. Without it kill -9 is still safe: the page cache outlives the process.
	Fsync bool
	// OwnSystem runs initdb for this cluster, so that its system identifier differs from other clusters of the process.
	OwnSystem bool
}

// PostgresCluster is a primary and its standbys.
type PostgresCluster struct {
	// Nodes in the order of their making; Nodes[0] is the first primary.
	Nodes []*PostgresNode
}

// Primary is the first node.
func (c *PostgresCluster) Primary() *PostgresNode { return c.Nodes[0] }

// PostgresNode is one server.
type PostgresNode struct {
	Process
	Name string
	bin  string
	mu   sync.Mutex
	db   *sql.DB
}

var pgTemplate template

// Postgres starts a cluster that ends with the test.
func Postgres(t testing.TB, o PostgresOptions) *PostgresCluster {
	t.Helper()
	initdb := find("initdb", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
	if initdb == "" {
		missing(t, "PostgreSQL", "apt-get install postgresql")
	}
	bin := filepath.Dir(initdb)
	ctx, cancel := context.WithTimeout(context.Background(), 2*startTimeout)
	defer cancel()
	cred := serverUser("postgres")
	conf := map[string]string{
		"listen_addresses": "'127.0.0.1'", "unix_socket_directories": "''", "wal_level": "replica",
		"wal_log_hints":   "on",
		"max_wal_senders": "20", "max_connections": "200", "shared_buffers": "32MB", "wal_keep_size": "512MB",
		"hot_standby":          "on",
		"hot_standby_feedback": "on", "wal_retrieve_retry_interval": "50ms", "wal_receiver_status_interval": "1s",
		"dynamic_shared_memory_type": "mmap", "logging_collector": "off", "fsync": "off", "autovacuum_naptime": "1min",
		"log_min_messages": "warning", "max_wal_size": "1GB",
	}
	if o.Fsync {
		conf["fsync"] = "on"
	}
	for k, v := range o.Config {
		conf[k] = v
	}
	newNode := func(i int) (*PostgresNode, error) {
		dir, err := newDir("postgres", cred)
		if err != nil {
			return nil, err
		}
		n := &PostgresNode{Name: "s" + strconv.Itoa(i), bin: bin}
		n.Process.name, n.dir, n.cred, n.port = "postgres", dir, cred, freePort()
		n.argv = []string{filepath.Join(bin, "postgres"), "-D", dir, "-p", strconv.Itoa(n.port), "-c", "cluster_name=" +
			n.Name}
		n.ready = func(ctx context.Context) error { return n.DB().PingContext(ctx) }
		t.Cleanup(func() {
			n.closeDB()
			n.remove()
		})
		return n, nil
	}
	fill := func(dir string) error {
		return run(ctx, dir, cred, initdb, "-D", dir, "-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E",
			"UTF8", "--no-instructions")
	}
	fail := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	p, err := newNode(0)
	fail(err)
	if o.OwnSystem {
		fail(fill(p.dir))
	} else {
		fail(pgTemplate.copyTo(p.dir, cred, fill))
	}
	fail(p.configure(conf))
	fail(p.Start(ctx))
	c := &PostgresCluster{Nodes: []*PostgresNode{p}}
	var wg sync.WaitGroup
	errs := make([]error, o.Standbys)
	for i := range o.Standbys {
		n, err := newNode(i + 1)
		fail(err)
		c.Nodes = append(c.Nodes, n)
		wg.Go(func() { errs[i] = n.CloneFrom(ctx, p) })
	}
	wg.Wait()
	for _, err := range errs {
		fail(err)
	}
	if o.Standbys > 0 {
		fail(p.waitStreaming(ctx, o.Standbys))
	}
	if o.Synchronous != "" {
		fail(p.Set(ctx, "synchronous_standby_names", o.Synchronous))
	}
	return c
}

// DSN is a URL for pgx and lib/pq.
func (n *PostgresNode) DSN() string {
	return "postgres://postgres@" + n.Addr() + "/postgres?sslmode=disable"
}

// ConnInfo is a primary_conninfo for standbys of this node.
func (n *PostgresNode) ConnInfo() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres", n.port)
}

// DB is a pool of superuser connections to this node, closed with the test.
func (n *PostgresNode) DB() *sql.DB {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.db == nil {
		n.db, _ = sql.Open("pgx", n.DSN())
	}
	return n.db
}

func (n *PostgresNode) closeDB() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.db != nil {
		_ = n.db.Close()
		n.db = nil
	}
}

func (n *PostgresNode) configure(conf map[string]string) error {
	var b strings.Builder
	keys := make([]string, 0, len(conf))
	for k := range conf {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&b, "%s = %s\n", k, conf[k])
	}
	path := filepath.Join(n.dir, "postgresql.conf")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return err
	}
	if err := chown(path, n.cred); err != nil {
		return err
	}
	hba := filepath.Join(n.dir, "pg_hba.conf")
	if err := os.WriteFile(hba, []byte("local all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"), 0o600); err != nil {
		return err
	}
	return chown(hba, n.cred)
}

// CloneFrom makes the (stopped) node a standby by a base backup of another and starts it.
func (n *PostgresNode) CloneFrom(ctx context.Context, from *PostgresNode) error {
	n.Kill()
	removeSharedMemory(n.dir)
	ents, err := os.ReadDir(n.dir)
	if err != nil {
		return err
	}
	for _, e := range ents {
		if err := os.RemoveAll(filepath.Join(n.dir, e.Name())); err != nil {
			return err
		}
	}
	if err := run(ctx, n.dir, n.cred, filepath.Join(n.bin, "pg_basebackup"), "-h", "127.0.0.1", "-p",
		strconv.Itoa(from.port), "-U", "postgres",
		"-D", n.dir, "-X", "stream", "-c", "fast", "--no-sync", "--no-manifest"); err != nil {
		return err
	}
	return n.standby(ctx, from)
}

// Rewind brings a diverged former primary back as a standby with pg_rewind; its own rows are lost.
func (n *PostgresNode) Rewind(ctx context.Context, from *PostgresNode) error {
	n.Stop()
	// Until its first checkpoint a promoted server's control file names the old timeline, and pg_rewind finds nothing
	// to do.
	if _, err := from.DB().ExecContext(ctx, "checkpoint"); err != nil {
		return err
	}
	if err := run(ctx, n.dir, n.cred, filepath.Join(n.bin, "pg_rewind"), "-D", n.dir, "--no-sync", "--source-server",
		from.ConnInfo()+" dbname=postgres"); err != nil {
		return err
	}
	return n.standby(ctx, from)
}

func (n *PostgresNode) standby(ctx context.Context, from *PostgresNode) error {
	auto := filepath.Join(n.dir, "postgresql.auto.conf")
	conf := fmt.Sprintf("primary_conninfo = '%s application_name=%s'\n", from.ConnInfo(), n.Name)
	for path, text := range map[string]string{auto: conf, filepath.Join(n.dir, "standby.signal"): ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if err := chown(path, n.cred); err != nil {
			return err
		}
	}
	return n.Start(ctx)
}

func (n *PostgresNode) waitStreaming(ctx context.Context, count int) error {
	for {
		var got int
		err := n.DB().QueryRowContext(ctx, `select count(*) from pg_stat_replication where state = 'streaming'`).Scan(
			&got)
		if err == nil && got >= count {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("testserver: %d of %d standbys stream: %w", got, count, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Set changes a setting that needs no restart.
func (n *PostgresNode) Set(ctx context.Context, name, value string) error {
	if _, err := n.DB().ExecContext(ctx, "alter system set "+name+" = '"+strings.ReplaceAll(value, "'", "''")+
		"'"); err != nil {
		return err
	}
	_, err := n.DB().ExecContext(ctx, "select pg_reload_conf()")
	return err
}

// Promote makes a standby a primary and waits until it is one.
func (n *PostgresNode) Promote(ctx context.Context) error {
	_, err := n.DB().ExecContext(ctx, "select pg_promote(true, 60)")
	return err
}

// Follow points a standby to another primary.
func (n *PostgresNode) Follow(ctx context.Context, primary *PostgresNode) error {
	return n.Set(ctx, "primary_conninfo", primary.ConnInfo()+" application_name="+n.Name)
}
