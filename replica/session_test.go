package replica

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a session saw on the primary it does not miss on a replica afterwards, whatever brought it to the primary.
func TestMonotonicReadsAfterThePrimary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{})
		w.lag.Store(true)
		_, err := c.DB().Exec("write")
		require.NoError(t, err)
		reads := map[string]func(s *Session) int64{
			"asked for": func(s *Session) int64 {
				_, pos := where(t, Primary(WithSession(t.Context(), s)), c.DB())
				return pos
			},
			"spilled": func(s *Session) int64 {
				w.nodes[1].down.Store(true)
				w.nodes[2].down.Store(true)
				time.Sleep(time.Second)
				_, pos := where(t, WithSession(t.Context(), s), c.DB())
				w.nodes[1].down.Store(false)
				w.nodes[2].down.Store(false)
				for _, m := range c.members { // back, and they need not have caught up to serve
					c.mu.Lock()
					m.hadRole = false
					c.mu.Unlock()
				}
				return pos
			},
			"rolled back": func(s *Session) int64 {
				tx, err := c.DB().BeginTx(WithSession(t.Context(), s), nil)
				require.NoError(t, err)
				_, pos := where(t, WithSession(t.Context(), s), tx)
				require.NoError(t, tx.Rollback())
				return pos
			},
		}
		for name, read := range reads {
			s := NewSession()
			seen := read(s)
			require.EqualValues(t, 1, seen, name)
			for range 20 {
				_, pos := where(t, WithSession(t.Context(), s), c.DB())
				require.GreaterOrEqual(t, pos, seen, name)
				time.Sleep(100 * time.Millisecond)
			}
		}
		w.lag.Store(false)
		_, err = c.DB().Exec("write")
		require.NoError(t, err)
		s := NewSession()
		ctx := WithSession(t.Context(), s)
		where(t, Primary(ctx), c.DB())
		time.Sleep(time.Second)
		n, _ := where(t, ctx, c.DB())
		require.NotEqual(t, "p", n, "it does not stay on the primary")
	})
}

// A read-only transaction sees more the longer it lasts; the session has seen it when it ends.
func TestMonotonicReadsAfterATransaction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{})
		w.nodes[2].down.Store(true) // so that r1 is chosen
		time.Sleep(time.Second)
		ctx := WithSession(t.Context(), NewSession())
		tx, err := c.DB().BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		require.NoError(t, err)
		time.Sleep(time.Second)
		w.nodes[2].down.Store(false)
		time.Sleep(time.Second)
		w.nodes[0].pos.Store(1)
		w.nodes[1].pos.Store(1)
		_, seen := where(t, ctx, tx)
		require.EqualValues(t, 1, seen)
		require.NoError(t, tx.Commit())
		w.nodes[1].down.Store(true) // before it is probed again
		for range 10 {
			_, pos := where(t, ctx, c.DB())
			require.GreaterOrEqual(t, pos, seen)
		}
	})
}

// Two writes of one session at the same time: while the outcome of one is unknown, the position of the other does not
// cover it.
func TestUnknownWriteBesideAKnownOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{})
		s := NewSession()
		ctx := WithSession(t.Context(), s)
		a, err := c.DB().BeginTx(ctx, nil)
		require.NoError(t, err)
		_, err = a.ExecContext(ctx, "write")
		require.NoError(t, err)
		w.nodes[0].commit = func() error { // while it is on its way, the other one is made and known
			w.nodes[0].commit = nil
			_, err := c.DB().ExecContext(ctx, "write")
			require.NoError(t, err)
			w.lag.Store(true)
			w.nodes[0].pos.Add(1) // now it commits
			return errFakeLost
		}
		require.ErrorIs(t, a.Commit(), ErrCommitUnknown)
		time.Sleep(time.Second)
		_, pos := where(t, ctx, c.DB())
		require.EqualValues(t, 3, pos)
		_, err = c.DB().ExecContext(ctx, "write")
		require.NoError(t, err)
		w.nodes[1].pos.Store(4)
		time.Sleep(time.Second)
		n, pos := where(t, ctx, c.DB())
		require.EqualValues(t, 4, pos)
		require.Equal(t, "r1", n, "a later position covers both")
	})
}
