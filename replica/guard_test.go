package replica

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// One user of a *sql.Conn holds one place under SpillLimit, however many reads he makes; and a read that is repeated
// keeps the place it has.
func TestSpillPlaceIsHeldOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{SpillLimit: 2})
		w.nodes[1].down.Store(true)
		time.Sleep(time.Second)
		conn, err := c.DB().Conn(t.Context())
		require.NoError(t, err)
		for range 5 {
			where(t, t.Context(), conn)
		}
		tx, err := conn.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		require.NoError(t, conn.Close())

		var wg sync.WaitGroup
		w.nodes[0].broken.Store(true) // both reads are under way when the primary breaks, and are repeated
		for range 2 {
			wg.Go(func() { where(t, t.Context(), c.DB()) })
		}
		synctest.Wait()
		w.nodes[0].broken.Store(false)
		wg.Wait()
		require.Zero(t, c.Stats().SpillRefused)
		require.Zero(t, len(c.spill.places))
	})
}

// Under Replica nothing runs on the primary, neither what a replica refuses nor a transaction whose session must see
// more.
func TestReplicaMeansReplica(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{})
		before := w.nodes[0].queries.Load()
		err := c.DB().QueryRowContext(Replica(t.Context()), "select refused()").Scan(new(string), new(int64))
		require.ErrorIs(t, err, errFakeReadOnly)
		require.Equal(t, before, w.nodes[0].queries.Load())
		require.Equal(t, ClassRead, c.Explain("select refused()").Class)

		ctx := WithSession(t.Context(), NewSession())
		_, err = c.DB().ExecContext(ctx, "write")
		require.NoError(t, err)
		w.nodes[1].pos.Store(0) // its last probe is older than the write
		tx, err := c.DB().BeginTx(Replica(ctx), &sql.TxOptions{ReadOnly: true})
		if err == nil {
			n, _ := where(t, ctx, tx)
			require.Equal(t, "r1", n)
			require.NoError(t, tx.Rollback())
		}
		require.ErrorIs(t, err, ErrNoReplica)
	})
}

// A transaction of many statements keeps nothing of those that are done.
func TestFlightsOfExecsLand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		conn, err := c.DB().Conn(ctx)
		require.NoError(t, err)
		defer conn.Close()
		flying := func() (n int) {
			require.NoError(t, conn.Raw(func(dc any) error { n = len(dc.(*connType).flying); return nil }))
			return n
		}
		for range 100 {
			_, err := conn.ExecContext(ctx, "write")
			require.NoError(t, err)
		}
		require.Zero(t, flying())
		tx, err := conn.BeginTx(ctx, nil)
		require.NoError(t, err)
		for range 100 {
			_, err := tx.ExecContext(ctx, "write")
			require.NoError(t, err)
		}
		require.NoError(t, tx.Commit())
		require.LessOrEqual(t, flying(), 1)
	})
}

type connType = conn

// What reaches logs and reports of a failed statement names it, without the password in it.
func TestErrorsKeepThePassword(t *testing.T) {
	to := Node{Name: "new", ConnInfo: "host=db password=hunter2"}
	err := Postgres().(Promoter).Follow(t.Context(), failingConn{}, to)
	require.ErrorContains(t, err, "alter system")
	require.NotContains(t, err.Error(), "hunter2")
	to.ConnInfo = "db:3306:repl:hunter2"
	err = MariaDB().(Promoter).Follow(t.Context(), failingConn{}, to)
	require.ErrorContains(t, err, "change master")
	require.NotContains(t, err.Error(), "hunter2")
}

type failingConn struct{ driver.Conn }

func (failingConn) ExecContext(_ context.Context, q string, _ []driver.NamedValue) (driver.Result, error) {
	if len(q) > 40 {
		return nil, errors.New("fake: no rights")
	}
	return driver.RowsAffected(0), nil
}
