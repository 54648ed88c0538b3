package shard

import (
	"bufio"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// phases are the steps at which servers and movers are killed.
var phases = []string{"before capture", "mid copy", "before catchup", "before settle", "before verify", "before fence",
	"before drain", "before commit", "before gone", "before owned", "before grace", "before cleanup"}

// somePhases are three of phases in their order, or all of them in an exhaustive run.
func somePhases(t *testing.T) []string {
	n := exhaustive.N(t, 3, len(phases))
	at := rand.Perm(len(phases))[:n]
	slices.Sort(at)
	var out []string
	for _, i := range at {
		out = append(out, phases[i])
	}
	t.Logf("kills at %v", out)
	return out
}

// homing connects to the server that is the primary now.
type homing struct{ dsn atomic.Pointer[string] }

func (h *homing) Connect(ctx context.Context) (driver.Conn, error) {
	conf, err := pgx.ParseConfig(*h.dsn.Load())
	if err != nil {
		return nil, err
	}
	return stdlib.GetConnector(*conf).Connect(ctx)
}

func (h *homing) Driver() driver.Driver { return nil }

// twoServers is a place whose last database is on a server of its own, so that the others' can die alone.
func twoServers(t *testing.T, standbys int) (p *testdb.Kind, first *testserver.PostgresCluster, homes *[]*homing) {
	if testing.Short() {
		t.Skip("needs servers")
	}
	o := testserver.PostgresOptions{Standbys: standbys}
	if standbys > 0 {
		o.Synchronous = "ANY 1 (s0, s1)"
	}
	first = testserver.Postgres(t, o)
	second := testserver.Postgres(t, testserver.PostgresOptions{})
	homes = new([]*homing)
	p = testdb.OwnPostgres(func(name string) *sql.DB {
		node := first.Primary()
		if name == "s2" {
			node = second.Primary()
		}
		_, err := node.DB().Exec("create database " + name)
		require.NoError(t, err)
		h := &homing{}
		dsn := fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable&connect_timeout=5", node.Addr(), name)
		h.dsn.Store(&dsn)
		if name != "s2" {
			*homes = append(*homes, h)
		}
		db := sql.OpenDB(h)
		db.SetMaxOpenConns(16)
		db.SetMaxIdleConns(16)
		t.Cleanup(func() { _ = db.Close() })
		return db
	})
	return p, first, homes
}

// The source's server is killed with SIGKILL at each phase of a move and comes back.
func TestSourceServerKilled(t *testing.T) {
	t.Parallel()
	phases := somePhases(t)
	p, first, _ := twoServers(t, 0)
	w := newWorld(t, p, 2, 64, 100)
	w.lossy = true
	ctx := t.Context()
	w.traffic(3, 1)
	killed := map[string]bool{}
	j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 32, Chunk: 10, step: func(name string) error {
		if slices.Contains(phases, name) && !killed[name] {
			killed[name] = true
			first.Primary().Kill()
			return first.Primary().Start(ctx)
		}
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, j.Wait(ctx))
	w.quiet()
	require.Len(t, killed, len(phases))
	t.Logf("%d writes", w.writes.Load())
	w.check()
}

// The source's primary is killed and its synchronous standby promoted, while the fence is up and around the commit of
// the map.
func TestSourceFailover(t *testing.T) {
	t.Parallel()
	p, first, homes := twoServers(t, 1)
	w := newWorld(t, p, 2, 64, 100)
	w.lossy = true
	ctx := t.Context()
	w.traffic(3, 1)
	primary, standby := first.Nodes[0], first.Nodes[1]
	at := []string{"before catchup", "before settle", "before drain", "before commit", "before gone"}
	if n := exhaustive.N(t, 1, len(at)); n < len(at) {
		i := rand.IntN(len(at))
		at = at[i : i+n]
	}
	j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 32, Chunk: 10, step: func(name string) error {
		i := slices.Index(at, name)
		if i < 0 {
			return nil
		}
		at = slices.Delete(at, i, i+1)
		primary.Kill()
		if err := standby.Promote(ctx); err != nil {
			return err
		}
		for i, h := range *homes {
			dsn := fmt.Sprintf("postgres://postgres@%s/s%d?sslmode=disable&connect_timeout=5", standby.Addr(), i)
			h.dsn.Store(&dsn)
		}
		primary, standby = standby, primary
		if err := standby.CloneFrom(ctx, primary); err != nil {
			return err
		}
		return primary.Set(ctx, "synchronous_standby_names", "ANY 1 (s0, s1)") // its copy of the settings is older
	}})
	require.NoError(t, err)
	require.NoError(t, j.Wait(ctx))
	w.quiet()
	require.Empty(t, at)
	t.Logf("%d writes", w.writes.Load())
	w.check()
}

// The mover is a process of its own and is killed with SIGKILL, at each phase and at any time; the next one goes on.
func TestMoverProcessKilled(t *testing.T) {
	t.Parallel()
	phases := somePhases(t)
	p := testdb.Postgres(t)
	var dsns []string
	for i := range 3 {
		dsns = append(dsns, p.DSN(fmt.Sprint("s", i)))
	}
	w := newWorld(t, p, 2, 64, 100)
	ctx := t.Context()
	// The map moves from memory to a database, where the mover's process finds it.
	st, err := w.store.Load(ctx)
	require.NoError(t, err)
	store := SQLStore(w.shards[0].DB, Postgres())
	require.NoError(t, store.CompareAndSwap(ctx, 0, st))
	w.store = store
	w.c = w.process(0)
	w.traffic(3, 1)
	j, err := w.c.Move(ctx, w.plan(ctx), MoveOptions{Group: 32, Chunk: 10, step: func(string) error {
		return mover.ErrCrash
	}})
	require.NoError(t, err)
	require.ErrorIs(t, j.Wait(ctx), mover.ErrCrash)

	mover := func(stopAt string) (lines *bufio.Scanner, kill func()) {
		cmd := exec.Command(os.Args[0])
		arg, err := json.Marshal(moverArgs{DSNs: dsns, StopAt: stopAt})
		require.NoError(t, err)
		cmd.Env = append(os.Environ(), "TIERKIT_SHARD_MOVER="+string(arg))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		return bufio.NewScanner(out), func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	for _, name := range phases {
		lines, kill := mover(name)
		ok := lines.Scan()
		line := lines.Text()
		if !ok || line != "at "+name {
			kill()
			t.Fatalf("the mover said %q, not that it is at %q", line, name)
		}
		kill()
	}
	for range exhaustive.N(t, 1, 4) {
		_, kill := mover("")
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		kill()
	}
	lines, kill := mover("")
	defer kill()
	require.True(t, lines.Scan())
	require.Equal(t, "done", lines.Text())
	w.quiet()
	w.check()
	require.Equal(t, 21, w.c.Map().Counts()["s2"])
}

type moverArgs struct {
	DSNs   []string
	StopAt string
}

// runAsMover is the test binary in the role of a mover's process.
func runAsMover() bool {
	arg := os.Getenv("TIERKIT_SHARD_MOVER")
	if arg == "" {
		return false
	}
	var a moverArgs
	err := json.Unmarshal([]byte(arg), &a)
	var shards []Shard
	for i, dsn := range a.DSNs {
		db, e := sql.Open("pgx", dsn)
		if e != nil {
			err = e
			break
		}
		shards = append(shards, Shard{ID: ID(fmt.Sprint("s", i)), DB: db})
	}
	if err == nil {
		err = func() error {
			ctx := context.Background()
			c, err := New(ctx, SQLStore(shards[0].DB, Postgres()), shards,
				Options{Dialect: Postgres(), Tables: testTables, MapTTL: leaseForTests, Refresh: 50 * time.Millisecond})
			if err != nil {
				return err
			}
			j, err := c.Resume(ctx, MoveOptions{Group: 32, Chunk: 10, step: func(name string) error {
				if a.StopAt != "" && name == a.StopAt {
					fmt.Println("at " + name)
					select {}
				}
				return nil
			}})
			if err != nil || j == nil {
				return err
			}
			return j.Wait(ctx)
		}()
	}
	if err != nil {
		fmt.Println(strings.ReplaceAll(err.Error(), "\n", " "))
		os.Exit(1)
	}
	fmt.Println("done")
	return true
}

// A transaction that stays open holds its slot; the fence tries and gives way, and the slot's other writers get on
// meanwhile.
func TestLongTransactionDoesNotStallOthers(t *testing.T) {
	t.Parallel()
	p := testdb.Postgres(t)
	w := newWorld(t, p, 2, 4, 60)
	ctx := t.Context()
	id, other := -1, -1
	for i := 0; other < 0; i += 2 {
		if w.c.Map().Owner(w.c.Slot(Int(int64(i)))) != "s0" {
			continue
		}
		if id < 0 {
			id = i
		} else if w.c.Slot(Int(int64(i))) == w.c.Slot(Int(int64(id))) {
			other = i
		}
	}
	var j *Job
	fencing := make(chan struct{})
	closed := false
	err := w.c.Tx(ctx, Int(int64(id)), nil, func(tx *Tx) error {
		if _, err := tx.Exec(`update t set v = 50 where id = $1`, id); err != nil {
			return err
		}
		j = w.moveKey(t, id, "s2", MoveOptions{LockTimeout: 30 * time.Millisecond, step: func(name string) error {
			if name == "before capture" && !closed {
				closed = true
				close(fencing)
			}
			return nil
		}})
		<-fencing
		for v := range int64(30) {
			w.write(w.c, other, v+2, 0)
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	require.NoError(t, err)
	w.keys[id].value = 50
	require.NoError(t, j.Wait(ctx))
	w.check()
}
