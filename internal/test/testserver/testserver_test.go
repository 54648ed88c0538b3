package testserver

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestPostgresFailover(t *testing.T) {
	began := time.Now()
	c := Postgres(t, PostgresOptions{Standbys: 2, Synchronous: "ANY 1 (s1, s2)"})
	t.Logf("primary and two standbys in %v", time.Since(began).Round(time.Millisecond))
	ctx := t.Context()
	p, s1, s2 := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	_, err := p.DB().ExecContext(ctx, "create table t(id int primary key)")
	require.NoError(t, err)
	_, err = p.DB().ExecContext(ctx, "insert into t values (1)")
	require.NoError(t, err)
	count := func(n *PostgresNode) (k int) {
		_ = n.DB().QueryRowContext(ctx, "select count(*) from t").Scan(&k)
		return k
	}
	eventually(t, "replication", func() bool { return count(s1) == 1 && count(s2) == 1 })

	s2.Freeze()
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	require.Error(t, s2.DB().QueryRowContext(short, "select 1").Scan(new(int)))
	cancel()
	s2.Thaw()
	eventually(t, "thaw", func() bool { return count(s2) == 1 })

	p.Kill()
	require.False(t, p.Running())
	require.NoError(t, s1.Promote(ctx))
	require.NoError(t, s2.Follow(ctx, s1))
	_, err = s1.DB().ExecContext(ctx, "insert into t values (2)")
	require.NoError(t, err)
	eventually(t, "the other standby follows", func() bool { return count(s2) == 2 })
	require.NoError(t, p.Restart(ctx)) // split brain: it accepts writes on the old timeline
	require.Equal(t, 1, count(p))
	require.NoError(t, p.Rewind(ctx, s1))
	eventually(t, "the old primary is back as a standby", func() bool { return count(p) == 2 })
}

func TestMariaDBReplica(t *testing.T) { testMySQLReplica(t, MariaDB) }
func TestMySQLReplica(t *testing.T)   { testMySQLReplica(t, MySQL) }

func testMySQLReplica(t *testing.T, start func(testing.TB, MySQLOptions) *MySQLCluster) {
	began := time.Now()
	c := start(t, MySQLOptions{Replicas: 1})
	t.Logf("primary and replica in %v", time.Since(began).Round(time.Millisecond))
	ctx := t.Context()
	p, r := c.Nodes[0], c.Nodes[1]
	_, err := p.DB().ExecContext(ctx, "create table t(id int primary key)")
	require.NoError(t, err)
	_, err = p.DB().ExecContext(ctx, "insert into t values (1)")
	require.NoError(t, err)
	eventually(t, "replication", func() bool {
		k := 0
		_ = r.DB().QueryRowContext(ctx, "select count(*) from t").Scan(&k)
		return k == 1
	})
	app, err := sql.Open("mysql", r.DSN())
	require.NoError(t, err)
	defer app.Close()
	_, err = app.ExecContext(ctx, "insert into t values (2)")
	require.ErrorContains(t, err, "1290")
	p.Kill()
	require.NoError(t, r.Promote(ctx))
	_, err = app.ExecContext(ctx, "insert into t values (2)")
	require.NoError(t, err)
	require.NoError(t, p.Restart(ctx))
	require.NoError(t, p.Follow(ctx, r))
	eventually(t, "the old primary follows", func() bool {
		k := 0
		_ = p.DB().QueryRowContext(ctx, "select count(*) from t").Scan(&k)
		return k == 2
	})
}

func TestRedisAndNATS(t *testing.T) {
	ctx := t.Context()
	r := Redis(t, RedisOptions{AppendOnly: true})
	ask := func(cmd string) string {
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(c, "%s\r\n", cmd)
		b := bufio.NewReader(c)
		l, _ := b.ReadString('\n')
		if strings.HasPrefix(l, "$") {
			l, _ = b.ReadString('\n')
		}
		return strings.TrimSpace(l)
	}
	require.Equal(t, "+OK", ask("SET a 1"))
	require.NoError(t, r.Restart(ctx))
	require.Equal(t, "1", ask("GET a"))

	n := NATS(t)
	dial := func() error {
		c, err := net.Dial("tcp", strings.TrimPrefix(n.URL(), "nats://"))
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	require.NoError(t, dial())
	n.Kill()
	require.Error(t, dial())
	require.NoError(t, n.Restart(ctx))
	require.NoError(t, dial())
}

// TestNothingSurvives kills a process with a running and a frozen server as kill -9 would, and looks for what is left.
func TestNothingSurvives(t *testing.T) {
	if os.Getenv("TESTSERVER_VICTIM") == "1" {
		c := Postgres(t, PostgresOptions{Standbys: 1})
		Redis(t)
		_ = c.Nodes[1].DB().Ping()
		c.Nodes[1].Freeze()
		fmt.Printf("dir=%s\n", filepath.Dir(c.Nodes[0].Dir()))
		select {}
	}
	if find("initdb", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin") == "" {
		missing(t, "PostgreSQL", "apt-get install postgresql")
	}
	victim := exec.Command(os.Args[0], "-test.run=^TestNothingSurvives$", "-test.v")
	victim.Env = append(os.Environ(), "TESTSERVER_VICTIM=1")
	out, err := victim.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	dir := ""
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if _, d, ok := strings.Cut(sc.Text(), "dir="); ok {
			dir = d
			break
		}
	}
	require.NotEmpty(t, dir, "the victim did not start its servers")
	require.NotEmpty(t, pidsIn(dir))
	require.NoError(t, victim.Process.Kill())
	_ = victim.Wait()
	eventually(t, "processes and files are gone", func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err) && len(pidsIn(dir)) == 0
	})
}
