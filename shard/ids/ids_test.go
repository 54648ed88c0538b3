package ids

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

var kinds = map[string]shard.Dialect{"sqlite": shard.SQLite(), "postgres": shard.Postgres(), "mariadb": shard.MariaDB()}

func TestGenerator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(26 * 366 * 24 * time.Hour) // bubbles begin in 2000, ids in 2024
		g, err := New(Options{})
		require.NoError(t, err)
		seen := map[int64]bool{}
		last := int64(0)
		for i := range 3000 {
			s := shard.Slot(i % 5)
			id, err := g.Next(s)
			require.NoError(t, err)
			require.False(t, seen[id])
			seen[id] = true
			require.Equal(t, s, SlotOf(id))
			require.WithinDuration(t, time.Now(), TimeOf(id), 2*time.Millisecond)
			if i%5 == 0 {
				require.Greater(t, id, last)
				last = id
			}
		}
		// A restart with the clock set back: nothing is repeated.
		floor := g.Mark().Add(50 * time.Millisecond)
		again, err := New(Options{Floor: floor})
		require.NoError(t, err)
		id, err := again.Next(0)
		require.NoError(t, err)
		require.True(t, TimeOf(id).After(floor))
		far, err := New(Options{Floor: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		_, err = far.Next(0)
		require.ErrorIs(t, err, ErrClock)
		// Two nodes never make the same id.
		a, err := New(Options{Node: 0, NodeBits: 1})
		require.NoError(t, err)
		b, err := New(Options{Node: 1, NodeBits: 1})
		require.NoError(t, err)
		both := map[int64]bool{}
		for range 500 {
			x, err := a.Next(3)
			require.NoError(t, err)
			y, err := b.Next(3)
			require.NoError(t, err)
			require.False(t, both[x] || both[y])
			both[x], both[y] = true, true
		}
		_, err = New(Options{NodeBits: 5})
		require.ErrorContains(t, err, "NodeBits")
		_, err = New(Options{Node: 1})
		require.ErrorContains(t, err, "Node")
		_, err = g.Next(1 << 14)
		require.ErrorContains(t, err, "slot")
	})
}

func TestLease(t *testing.T) {
	for name, d := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := testdb.All[name](t)
			db := p.Open("leases")
			ctx := t.Context()
			o := LeaseOptions{NodeBits: 1, TTL: 2 * time.Second}
			var mu sync.Mutex
			seen := map[int64]bool{}
			make_ := func(l *Leased, n int) {
				for range n {
					id, err := l.Next(5)
					require.NoError(t, err)
					mu.Lock()
					require.False(t, seen[id])
					seen[id] = true
					mu.Unlock()
				}
			}
			a, err := Lease(ctx, db, d, o)
			require.NoError(t, err)
			b, err := Lease(ctx, db, d, o)
			require.NoError(t, err)
			require.NotEqual(t, a.Node(), b.Node())
			_, err = Lease(ctx, db, d, o)
			require.ErrorIs(t, err, ErrNoNode)
			var wg sync.WaitGroup
			wg.Go(func() { make_(a, 2000) })
			wg.Go(func() { make_(b, 2000) })
			wg.Wait()
			require.NoError(t, a.Close())
			require.NoError(t, a.Close())
			_, err = a.Next(5)
			require.ErrorIs(t, err, ErrNoNode)
			c, err := Lease(ctx, db, d, o)
			require.NoError(t, err)
			require.Equal(t, a.Node(), c.Node())
			make_(c, 500)
			// c dies without a word; who gets its number begins where it may have got to.
			c.cancel()
			c.wg.Wait()
			until := c.until.Load()
			var heir *Leased
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if heir, err = Lease(ctx, db, d, o); err == nil {
					break
				}
				require.True(t, errors.Is(err, ErrNoNode) && time.Now().Before(end), "%v", err)
			}
			id, err := heir.Next(5)
			require.NoError(t, err)
			require.Greater(t, TimeOf(id).Sub(epoch).Milliseconds(), until)
			_, err = c.Next(5)
			require.ErrorIs(t, err, ErrNoNode, "if it was not dead")
			// Somebody took b's number: it notices when it renews.
			_, err = db.Exec(`update tk_node set holder = 'thief'`)
			require.NoError(t, err)
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if _, err = b.Next(5); err != nil {
					break
				}
				require.True(t, time.Now().Before(end))
			}
			require.ErrorIs(t, err, ErrNoNode)
			require.NoError(t, b.Close())
			require.NoError(t, heir.Close())
		})
	}
	_, err := Lease(t.Context(), nil, shard.SQLite(), LeaseOptions{NodeBits: 9})
	require.ErrorContains(t, err, "NodeBits")
}
