package replica

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A write chose the primary, which was replaced before the write found a connection to it: the former primary, thawed,
// must not get it.
func TestWriteThatChoseTheFormerPrimary(t *testing.T) {
	for name, write := range map[string]func(db *sql.DB) error{
		"statement": func(db *sql.DB) error { _, err := db.Exec("write"); return err },
		"transaction": func(db *sql.DB) error {
			tx, err := db.Begin()
			if err != nil {
				return err
			}
			if _, err := tx.Exec("write"); err != nil {
				return err
			}
			return tx.Commit()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld("p", "r1")
				c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}})
				_, err := c.DB().Exec("write") // leaves a connection in the pool
				require.NoError(t, err)
				w.nodes[0].reset = func() error {
					w.nodes[0].reset = nil
					_, err := c.Promote(t.Context(), "r1")
					require.NoError(t, err)
					return driver.ErrBadConn // it did not survive
				}
				require.NoError(t, write(c.DB()))
				require.EqualValues(t, 1, w.nodes[0].pos.Load())
				require.EqualValues(t, 2, w.nodes[1].pos.Load())
			})
		})
	}
}

// A process starts while a former primary is back: its probe is answered first, and yet it gets no write.
func TestFirstAnswerOfAFormerPrimary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("old", "new")
		w.nodes[1].primary.Store(true)
		w.nodes[1].timeline.Store(2)
		w.nodes[1].slow.Store(int64(50 * time.Millisecond))
		c, err := New(w.dialect(), w.config(), Options{})
		require.NoError(t, err)
		defer c.Close()
		_, err = c.DB().Exec("write")
		require.NoError(t, err)
		require.Zero(t, w.nodes[0].pos.Load())
		require.EqualValues(t, 1, w.nodes[1].pos.Load())
	})
}

// What reaches a node after it was ejected is let go too: there is no second ejection that would end it.
func TestStatementAfterEjection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{})
		tx, err := c.DB().Begin()
		require.NoError(t, err)
		w.nodes[0].frozen.Store(true)
		for c.Status().Primary != "" {
			time.Sleep(10 * time.Millisecond)
		}
		late := &conn{c: c}
		require.Error(t, late.under(context.Background(), c.members[0].node).Err())
		done := make(chan error, 1)
		go func() { _, err := tx.Exec("write"); done <- err }()
		select {
		case err := <-done:
			require.ErrorIs(t, err, ErrTxLost)
		case <-time.After(time.Minute):
			w.nodes[0].frozen.Store(false)
			t.Error("hangs")
		}
		_ = tx.Rollback()
		w.nodes[0].frozen.Store(false)
		time.Sleep(time.Second)
		_, err = c.DB().Exec("write")
		require.NoError(t, err)
	})
}

// A connection attempt that was refused before the node was probed successfully says nothing of the node.
func TestLateRefusal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}})
		slow := &slowConnector{Connector: w.nodes[0], refuse: make(chan struct{})}
		c.members[0].Connector = slow
		slow.on.Store(true)
		done := make(chan error)
		go func() { _, err := c.DB().Exec("write"); done <- err }()
		synctest.Wait()
		slow.on.Store(false)
		time.Sleep(time.Second) // probes succeed
		close(slow.refuse)
		require.NoError(t, <-done)
		time.Sleep(time.Second)
		require.Equal(t, "p", c.Status().Primary)
		require.Zero(t, c.Stats().Promotions)
	})
}

type slowConnector struct {
	driver.Connector
	on     atomic.Bool
	refuse chan struct{}
}

func (s *slowConnector) Connect(ctx context.Context) (driver.Conn, error) {
	if s.on.Load() {
		<-s.refuse
		return nil, fmt.Errorf("fake: %w", syscall.ECONNREFUSED)
	}
	return s.Connector.Connect(ctx)
}

// A connection that is pinned to a former primary writes no more on it.
func TestPinnedToAFormerPrimary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}})
		conn, err := c.DB().Conn(t.Context())
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.ExecContext(t.Context(), "set x = 1")
		require.NoError(t, err)
		tx, err := c.DB().Begin()
		require.NoError(t, err)
		_, err = tx.Exec("write")
		require.NoError(t, err)
		_, err = c.Promote(t.Context(), "r1")
		require.NoError(t, err)
		before := w.nodes[0].pos.Load()
		_, err = conn.ExecContext(t.Context(), "write")
		require.ErrorIs(t, err, ErrNoPrimary)
		require.Equal(t, before, w.nodes[0].pos.Load())
		commits := w.nodes[0].commits.Load()
		require.ErrorIs(t, tx.Commit(), ErrTxLost, "the commit was not sent yet")
		require.Equal(t, commits, w.nodes[0].commits.Load())
	})
}

// What a pinned connection writes by itself is read by the session that wrote it, and its loss is as unknown as that of
// any write.
func TestPinnedWriteOfASession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{})
		w.lag.Store(true)
		s := NewSession()
		ctx := WithSession(t.Context(), s)
		for i, write := range []func(conn *sql.Conn) error{
			func(conn *sql.Conn) error { _, err := conn.ExecContext(ctx, "write"); return err },
			func(conn *sql.Conn) error {
				return conn.QueryRowContext(ctx, "write returning x").Scan(new(string), new(int64))
			},
		} {
			conn, err := c.DB().Conn(ctx)
			require.NoError(t, err)
			_, err = conn.ExecContext(t.Context(), "set x = 1")
			require.NoError(t, err)
			before := w.nodes[0].pos.Load()
			require.NoError(t, write(conn))
			require.NoError(t, conn.Close())
			require.True(t, s.Wrote())
			n, pos := where(t, ctx, c.DB())
			require.Equal(t, "p", n, "%d", i)
			require.Equal(t, int64(before+1), pos)
		}
		conn, err := c.DB().Conn(ctx)
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.ExecContext(t.Context(), "set x = 1")
		require.NoError(t, err)
		w.nodes[0].broken.Store(true)
		_, err = conn.ExecContext(ctx, "write")
		require.ErrorIs(t, err, ErrCommitUnknown)
		w.nodes[0].broken.Store(false)
	})
}
