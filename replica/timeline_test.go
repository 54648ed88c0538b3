package replica

import (
	"context"
	"database/sql/driver"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Servers without timelines: this process promoted one, another process promotes the next. It was seen to rise, so it
// is no former primary.
func TestRisenWithoutTimelines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		w.noTimelines = true
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}})
		_, err := c.Promote(t.Context(), "r1")
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, "r1", c.Status().Primary)
		require.NotEmpty(t, c.Status().Nodes[0].Fenced)

		r1 := w.config()[1]
		require.NoError(t, c.Remove("r1"))
		require.NoError(t, c.Add(r1))
		time.Sleep(time.Second)
		require.Equal(t, "r1", c.Status().Primary, "it is the same server")

		w.nodes[1].down.Store(true)
		w.nodes[2].primary.Store(true)
		time.Sleep(2 * time.Second)
		require.Equal(t, "r2", c.Status().Primary)
		w.nodes[1].down.Store(false)
		time.Sleep(time.Second)
		_, err = c.DB().Exec("write")
		require.NoError(t, err)
		require.Equal(t, "r2", c.Status().Primary)
		require.NotEmpty(t, c.Status().Nodes[2].Fenced, "r1, which was added again")
		require.NotEmpty(t, c.Status().Nodes[0].Fenced)
	})
}

// A node that comes back has to have what the primary had then, also after a promotion among servers without timelines,
// while the primary writes on.
func TestCatchUpWithoutTimelines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		w.noTimelines = true
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}})
		_, err := c.Promote(t.Context(), "r1")
		require.NoError(t, err)
		w.nodes[2].down.Store(true)
		time.Sleep(time.Second)
		w.nodes[2].down.Store(false)
		w.nodes[2].frozen.Store(false)
		w.lag.Store(true)
		for range 100 { // always five behind
			_, err := c.DB().Exec("write")
			require.NoError(t, err)
			if n := w.nodes[1].pos.Load(); n > 5 {
				w.nodes[2].pos.Store(n - 5)
			}
			time.Sleep(100 * time.Millisecond)
		}
		n, _ := where(t, t.Context(), c.DB())
		require.Equal(t, "r2", n)
	})
}

// A standby that is cut off does not tell its timeline, as PostgreSQL's do not. The place of the fork is known all the
// same.
func TestForkWithoutTimelineOfTheCutStandby(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := startWith(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}}, func(h *PlainHooks) {
			cut := h.Cut
			h.Cut = func(ctx context.Context, c driver.Conn) (NodeState, error) {
				st, err := cut(ctx, c)
				st.Replayed.Timeline, st.Received.Timeline = 0, 0
				return st, err
			}
		})
		_, err := c.Promote(t.Context(), "r1")
		require.NoError(t, err)
		w.nodes[2].pos.Store(7) // from the former primary
		time.Sleep(time.Second)
		require.Contains(t, c.Status().Nodes[2].Fenced, "follows a former primary")
		plan, err := c.RecoveryPlan("p")
		require.NoError(t, err)
		require.EqualValues(t, 1, plan.Diverged.Timeline)
	})
}
