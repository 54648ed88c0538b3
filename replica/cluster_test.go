package replica

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// start makes a cluster inside a synctest bubble; time is virtual.
func start(t *testing.T, w *fakeWorld, o Options) *Cluster {
	t.Helper()
	c, err := New(w.dialect(), w.config(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.NoError(t, c.Close(), "idempotent")
		for _, f := range w.nodes {
			require.Zero(t, f.open.Load(), "connections of %s left open", f.name)
		}
	})
	require.NoError(t, c.WaitReady(t.Context()))
	synctest.Wait()
	return c
}

func where(t *testing.T, ctx context.Context, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) (node string, pos int64) {
	t.Helper()
	require.NoError(t, q.QueryRowContext(ctx, "select x").Scan(&node, &pos))
	return node, pos
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestReadsSpreadOverReplicas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := start(t, newWorld("p", "r1", "r2"), Options{})
		seen := map[string]int{}
		for range 200 {
			n, _ := where(t, t.Context(), c.DB())
			seen[n]++
		}
		require.Zero(t, seen["p"])
		require.Greater(t, seen["r1"], 50)
		require.Greater(t, seen["r2"], 50)
		n, _ := where(t, Primary(t.Context()), c.DB())
		require.Equal(t, "p", n)
		require.EqualValues(t, 200, c.Stats().ReadsReplica)
		require.Equal(t, "p", c.Status().Primary)
		require.Equal(t, ClassRead, c.Explain("select 1").Class)
	})
}

func TestZones(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "far", "near")
		nodes := w.config()
		nodes[2].Zone = "eu"
		c, err := New(w.dialect(), nodes, Options{Zone: "eu"})
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.WaitReady(t.Context()))
		synctest.Wait()
		for range 20 {
			n, _ := where(t, t.Context(), c.DB())
			require.Equal(t, "near", n)
		}
		w.nodes[2].down.Store(true)
		for range 20 {
			n, _ := where(t, t.Context(), c.DB())
			require.Equal(t, "far", n)
		}
	})
}

// 0 failed reads with one replica of two killed, and with both.
func TestReplicasKilled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{})
		read := func(want ...string) {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 125 {
						n, _ := where(t, t.Context(), c.DB())
						require.Contains(t, want, n)
					}
				})
			}
			wg.Wait()
		}
		read("r1", "r2")
		w.nodes[1].down.Store(true)
		read("r2")
		w.nodes[2].broken.Store(true) // breaks in the middle
		read("p")
		require.NotZero(t, c.Stats().Spilled)
		w.nodes[1].down.Store(false)
		w.nodes[2].broken.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		read("r1", "r2")
	})
}

func TestFrozenReplicaIsLetGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{})
		w.nodes[1].frozen.Store(true)
		began := time.Now()
		for range 50 { // some of them hang on r1 until the probes eject it, none fails
			n, _ := where(t, t.Context(), c.DB())
			require.Equal(t, "r2", n)
		}
		require.Less(t, time.Since(began), 2*time.Second)
		w.nodes[1].frozen.Store(false)
	})
}

func TestSpillLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{SpillLimit: 1, SpillWait: 100 * time.Millisecond})
		w.nodes[1].down.Store(true)
		time.Sleep(time.Second)
		rows, err := c.DB().QueryContext(t.Context(), "select x")
		require.NoError(t, err)
		var n string
		var p int64
		err = c.DB().QueryRowContext(t.Context(), "select x").Scan(&n, &p)
		require.ErrorIs(t, err, ErrSpillLimit)
		require.NoError(t, rows.Close())
		where(t, t.Context(), c.DB())
		require.ErrorIs(t, c.DB().QueryRowContext(Replica(t.Context()), "select x").Scan(&n, &p), ErrNoReplica)
	})
}

func TestReadYourWrites(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{})
		w.lag.Store(true)
		s := NewSession()
		ctx := WithSession(t.Context(), s)
		_, err := c.DB().ExecContext(ctx, "write")
		require.NoError(t, err)
		require.True(t, s.Wrote())
		n, pos := where(t, ctx, c.DB())
		require.Equal(t, "p", n)
		require.EqualValues(t, 1, pos)
		n, pos = where(t, t.Context(), c.DB()) // without the session: stale
		require.NotEqual(t, "p", n)
		require.Zero(t, pos)

		w.lag.Store(false)
		_, err = c.DB().ExecContext(ctx, "write")
		require.NoError(t, err)
		time.Sleep(time.Second) // the probes see the replicas catch up
		n, pos = where(t, ctx, c.DB())
		require.NotEqual(t, "p", n)
		require.EqualValues(t, 2, pos)
		for range 20 { // it stays where it has read
			m, _ := where(t, ctx, c.DB())
			require.Equal(t, n, m)
		}

		// INSERT ... RETURNING through Query and a transaction capture too.
		w.lag.Store(true)
		var name string
		require.NoError(t, c.DB().QueryRowContext(ctx, "write returning x").Scan(&name, &pos))
		_, pos = where(t, ctx, c.DB())
		require.EqualValues(t, 3, pos)
		tx, err := c.DB().BeginTx(ctx, nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(ctx, "write")
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		_, pos = where(t, ctx, c.DB())
		require.EqualValues(t, 4, pos)
	})
}

// Two replicas at different points: a session that read on the one ahead never reads on the one behind.
func TestMonotonicReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{})
		ctx := WithSession(t.Context(), NewSession())
		w.nodes[0].pos.Store(10)
		w.nodes[1].pos.Store(10)
		w.nodes[2].pos.Store(3)
		time.Sleep(time.Second)
		last := int64(0)
		for i := range 200 {
			if i == 50 {
				w.nodes[1].down.Store(true)
			}
			if i == 100 {
				w.nodes[1].down.Store(false)
				time.Sleep(time.Second)
			}
			if i == 150 {
				w.nodes[2].pos.Store(10)
				time.Sleep(time.Second)
			}
			_, pos := where(t, ctx, c.DB())
			require.GreaterOrEqual(t, pos, last)
			last = pos
		}
	})
}

func TestTokens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{Name: "shop"})
		w.lag.Store(true)
		tok, err := NewTokens()
		require.NoError(t, err)
		h := tok.Middleware(CookieOptions{})(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				_, err := c.DB().ExecContext(r.Context(), "write")
				require.NoError(t, err)
			}
			n, _ := where(t, r.Context(), c.DB())
			if r.URL.Path == "/public" {
				rw.Header().Set("Cache-Control", "public, max-age=60")
			}
			_, _ = rw.Write([]byte(n))
		}))
		do := func(method, path string, cookie *http.Cookie) (string, *http.Cookie) {
			r := httptest.NewRequest(method, path, nil)
			if cookie != nil {
				r.AddCookie(cookie)
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			for _, ck := range rec.Result().Cookies() {
				return rec.Body.String(), ck
			}
			return rec.Body.String(), nil
		}
		node, ck := do("GET", "/", nil)
		require.Equal(t, "r1", node)
		require.Nil(t, ck, "no cookie without a write")
		_, ck = do("POST", "/public", nil)
		require.Nil(t, ck, "none on a public response")
		_, ck = do("POST", "/", nil)
		require.NotNil(t, ck)
		require.True(t, ck.HttpOnly && ck.Secure)
		node, _ = do("GET", "/", ck)
		require.Equal(t, "p", node, "the write is not on the replica yet")
		forged := *ck
		forged.Value = ck.Value[:len(ck.Value)-2] + "xx"
		node, _ = do("GET", "/", &forged)
		require.Equal(t, "r1", node, "a forged token is no token")

		// A foreign system and a position from the future are refused.
		for _, pos := range []Position{{System: "other", Timeline: 1, Offset: 1},
			{System: "w", Timeline: 1, Offset: 1 << 40}} {
			s := NewSession()
			s.wrotePosition("shop", s.writing("shop"), pos, c.dialect)
			time.Sleep(5 * time.Second)
			n, _ := where(t, WithSession(t.Context(), s), c.DB())
			require.Equal(t, "r1", n, "%+v", pos)
		}
		require.EqualValues(t, 2, c.Stats().TokensRefused)
		_, err = tok.Decode("nonsense")
		require.ErrorIs(t, err, ErrToken)
	})
}

func TestMisrouteHeals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := start(t, newWorld("p", "r1"), Options{})
		var n string
		var p int64
		for range 3 {
			require.NoError(t, c.DB().QueryRowContext(t.Context(), "select refused()").Scan(&n, &p))
			require.Equal(t, "p", n)
		}
		require.EqualValues(t, 1, c.Stats().Healed, "learned after the first time")
		require.True(t, c.Explain("select refused()").Learned)
		tx, err := c.DB().BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
		require.NoError(t, err)
		require.ErrorIs(t, tx.QueryRow("select refused()").Scan(&n, &p), errFakeReadOnly, "not inside a transaction")
		require.NoError(t, tx.Rollback())
	})
}

func TestTransactionsAndPins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{})
		tx, err := c.DB().Begin()
		require.NoError(t, err)
		n, _ := where(t, t.Context(), tx)
		require.Equal(t, "p", n)
		require.NoError(t, tx.Commit())
		tx, err = c.DB().BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
		require.NoError(t, err)
		n, _ = where(t, t.Context(), tx)
		for range 10 {
			m, _ := where(t, t.Context(), tx)
			require.Equal(t, n, m)
			require.NotEqual(t, "p", m)
		}
		require.NoError(t, tx.Commit())

		conn, err := c.DB().Conn(t.Context())
		require.NoError(t, err)
		n, _ = where(t, t.Context(), conn)
		require.NotEqual(t, "p", n)
		_, err = conn.ExecContext(t.Context(), "set x = 1")
		require.NoError(t, err)
		n, _ = where(t, t.Context(), conn)
		require.Equal(t, "p", n, "session state pins")
		var raw *fakeConn
		require.NoError(t, Raw(t.Context(), conn, func(dc any) error { raw = dc.(*fakeConn); return nil }))
		require.Equal(t, "p", raw.f.name)
		require.NoError(t, conn.Close())
		require.True(t, raw.closed, "nobody inherits the session's state")
		n, _ = where(t, t.Context(), c.DB())
		require.NotEqual(t, "p", n)
		require.EqualValues(t, 0, c.Stats().Nodes[0].InUse)
	})
}

func TestPreparedStatementsFollow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{})
		st, err := c.DB().Prepare("select x")
		require.NoError(t, err)
		defer st.Close()
		ask := func() string {
			var n string
			var p int64
			require.NoError(t, st.QueryRow().Scan(&n, &p))
			return n
		}
		for range 50 {
			require.NotEqual(t, "p", ask())
		}
		require.LessOrEqual(t, w.nodes[1].prepares.Load()+w.nodes[2].prepares.Load(), int64(4))
		w.nodes[1].down.Store(true)
		for range 20 {
			require.Equal(t, "r2", ask())
		}
	})
}

func TestWritesAreNeverRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{PrimaryWait: time.Second})
		_, err := c.DB().Exec("write")
		require.NoError(t, err)
		w.nodes[0].broken.Store(true)
		_, err = c.DB().Exec("write")
		require.ErrorIs(t, err, ErrCommitUnknown)
		w.nodes[0].broken.Store(false)
		w.nodes[0].down.Store(true)
		time.Sleep(time.Second)
		began := time.Now()
		_, err = c.DB().Exec("write")
		require.ErrorIs(t, err, ErrNoPrimary)
		require.Equal(t, time.Second, time.Since(began))
		go func() { time.Sleep(300 * time.Millisecond); w.nodes[0].down.Store(false) }()
		_, err = c.DB().Exec("write") // waits for the primary to come back
		require.NoError(t, err)
		require.EqualValues(t, 2, w.nodes[0].pos.Load())
	})
}

func TestAddDrainRemove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		var replaced []string
		var mu sync.Mutex
		c := start(t, w, Options{ReplaceAfter: 10 * time.Second, Replace: func(_ context.Context, dead NodeStatus) {
			mu.Lock()
			replaced = append(replaced, dead.Name)
			mu.Unlock()
		}})
		r2 := &fakeNode{name: "r2", world: w}
		r2.timeline.Store(1)
		w.nodes = append(w.nodes, r2)
		require.NoError(t, c.Add(Node{Name: "r2", Connector: r2}))
		require.ErrorIs(t, c.Add(Node{Name: "r2", Connector: r2}), ErrDuplicateNode)
		time.Sleep(time.Second)
		rows, err := c.DB().QueryContext(t.Context(), "select x")
		require.NoError(t, err)
		require.NoError(t, rows.Close())
		require.NoError(t, c.Drain(t.Context(), "r1"))
		for range 20 {
			n, _ := where(t, t.Context(), c.DB())
			require.Equal(t, "r2", n)
		}
		require.NoError(t, c.Remove("r1"))
		require.ErrorIs(t, c.Remove("r1"), ErrUnknownNode)
		require.Zero(t, c.Status().Degraded)
		r2.down.Store(true)
		time.Sleep(time.Minute)
		mu.Lock()
		require.Equal(t, []string{"r2"}, replaced)
		mu.Unlock()
		require.Greater(t, c.Status().Degraded, 50*time.Second)
	})
}

func TestConnectionCap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p")
		c := start(t, w, Options{MaxConns: 2})
		a, err := c.DB().Conn(t.Context())
		require.NoError(t, err)
		b, err := c.DB().Conn(t.Context())
		require.NoError(t, err)
		where(t, t.Context(), a)
		where(t, t.Context(), b)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		var n string
		require.ErrorIs(t, c.DB().QueryRowContext(ctx, "select x").Scan(&n, new(int64)), context.DeadlineExceeded)
		cancel()
		go func() { time.Sleep(time.Second); _ = a.Close() }()
		where(t, t.Context(), c.DB())
		require.NoError(t, b.Close())
		// 500 idle logical connections hold no physical one.
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() { where(t, t.Context(), c.DB()) })
		}
		wg.Wait()
		require.LessOrEqual(t, w.nodes[0].open.Load(), int64(3))
	})
}

func TestOptionErrors(t *testing.T) {
	w := newWorld("p")
	for _, c := range []struct {
		nodes []Node
		o     Options
		want  string
	}{
		{nil, Options{}, "nodes"},
		{[]Node{{Connector: w.nodes[0]}}, Options{}, "Node.Name"},
		{[]Node{{Name: "a"}}, Options{}, "Node.Connector"},
		{w.config(), Options{ShadowFraction: 2}, "ShadowFraction"},
		{w.config(), Options{Promotion: &Promotion{}}, "Promotion.Lease"},
	} {
		_, err := New(w.dialect(), c.nodes, c.o)
		require.ErrorContains(t, err, c.want)
	}
	_, err := New(observer{w.dialect()}, w.config(), Options{Promotion: &Promotion{Lease: MemoryLease()}})
	require.ErrorContains(t, err, "cannot promote")
	_, err = New(nil, w.config(), Options{})
	require.Error(t, err)
	require.False(t, errors.Is(err, ErrClosed))
}

// observer is a dialect without Promoter.
type observer struct{ Dialect }
