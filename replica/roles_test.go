package replica

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPromotion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		var hooked []PromotionReport
		replace := make(chan string, 10)
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()},
			Replace: func(_ context.Context, n NodeStatus) {
				replace <- n.Name
			},
			Hooks: &Hooks{Promoted: func(r PromotionReport, err error) {
				if err == nil {
					hooked = append(hooked, r)
				}
			}}})
		_, err := c.DB().Exec("write")
		require.NoError(t, err)
		w.nodes[2].received.Store(5) // r2 has more of the log than r1, though not replayed
		w.nodes[0].down.Store(true)
		began := time.Now()
		_, err = c.DB().Exec("write") // waits for the new primary
		if err != nil {
			require.ErrorIs(t, err, ErrCommitUnknown)
			_, err = c.DB().Exec("write")
		}
		require.NoError(t, err)
		t.Logf("first write after %v of virtual time", time.Since(began))
		require.Less(t, time.Since(began), time.Second)
		require.Equal(t, "r2", c.Status().Primary, "the furthest")
		synctest.Wait()
		require.False(t, w.nodes[1].cut.Load(), "r1 follows again")
		require.Len(t, hooked, 1)
		require.Equal(t, []string{"r1"}, hooked[0].Repointed)
		require.Equal(t, "r2", <-replace, "its place among the replicas is empty")

		w.nodes[0].down.Store(false) // the old primary comes back, on the old timeline, and accepts writes
		time.Sleep(time.Second)
		for range 20 {
			_, err := c.DB().Exec("write")
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, w.nodes[0].pos.Load(), "never written again")
		require.NotEmpty(t, c.Status().Nodes[0].Fenced)
		n, _ := where(t, t.Context(), c.DB())
		require.Equal(t, "r1", n, "nor read")
	})
}

// A probe that was under way during the promotion brings what it saw before: a standby. Nobody loses the new primary by
// it.
func TestProbeUnderWayDuringPromotion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		var lost []NodeStatus
		c := start(t, w, Options{ProbeInterval: 100 * time.Millisecond, ProbeTimeout: time.Second,
			Promotion: &Promotion{Lease: MemoryLease()},
			Hooks: &Hooks{NodeChanged: func(before, after NodeStatus) {
				if before.Role == RolePrimary && after.Role != RolePrimary {
					lost = append(lost, after)
				}
			}}})
		_, err := c.DB().Exec("write")
		require.NoError(t, err)
		w.nodes[1].slow.Store(int64(500 * time.Millisecond))
		time.Sleep(250 * time.Millisecond) // one is under way
		w.nodes[0].down.Store(true)
		for c.Status().Primary != "r1" {
			time.Sleep(time.Millisecond)
		}
		for range 1000 {
			_, err := c.DB().Exec("write")
			require.NoError(t, err)
			require.Equal(t, "r1", c.Status().Primary)
			time.Sleep(time.Millisecond)
		}
		require.Empty(t, lost)
	})
}

func TestPromotionRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		var errs []error
		var mu sync.Mutex
		c := start(t, w, Options{PrimaryWait: -1, Promotion: &Promotion{Lease: MemoryLease()},
			Hooks: &Hooks{Promoted: func(_ PromotionReport, err error) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}}})
		w.nodes[2].down.Store(true) // it may hold the last acknowledged write
		w.nodes[0].down.Store(true)
		time.Sleep(5 * time.Second)
		_, err := c.DB().Exec("write")
		require.ErrorIs(t, err, ErrNoPrimary)
		mu.Lock()
		require.NotEmpty(t, errs)
		require.ErrorIs(t, errs[0], ErrPromotion)
		mu.Unlock()
		w.nodes[2].down.Store(false)
		time.Sleep(5 * time.Second)
		_, err = c.DB().Exec("write")
		require.NoError(t, err)
	})
}

func TestSplitBrainRefusesWrites(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{PrimaryWait: -1})
		w.nodes[1].primary.Store(true)
		time.Sleep(time.Second)
		_, err := c.DB().Exec("write")
		require.ErrorIs(t, err, ErrSplitBrain)
		require.Len(t, c.Status().SplitBrain, 2)
		n, _ := where(t, t.Context(), c.DB())
		require.Equal(t, "r2", n)
	})
}

// A process that starts while only the former primary is reachable learns from a standby that there is a newer one, and
// does not write.
func TestStandbyTellsOfANewPrimary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("old", "r1", "new")
		w.nodes[1].timeline.Store(2)
		w.nodes[2].down.Store(true)
		w.nodes[2].timeline.Store(2)
		c, err := New(w.dialect(), w.config(), Options{PrimaryWait: -1})
		require.NoError(t, err)
		defer c.Close()
		time.Sleep(time.Second)
		_, err = c.DB().Exec("write")
		require.ErrorIs(t, err, ErrNoPrimary)
		require.Zero(t, w.nodes[0].pos.Load())
		require.Contains(t, c.Status().Nodes[0].Fenced, "former primary")
		w.nodes[2].primary.Store(true)
		w.nodes[2].down.Store(false)
		time.Sleep(time.Second)
		_, err = c.DB().Exec("write")
		require.NoError(t, err)
		require.Equal(t, "new", c.Status().Primary)
	})
}

// After a promotion a standby that goes on replaying the former primary's log gets no reads.
func TestStandbyOfAFormerPrimaryIsFenced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}})
		_, err := c.DB().Exec("write")
		require.NoError(t, err)
		w.nodes[1].received.Store(2)
		w.nodes[0].down.Store(true)
		time.Sleep(2 * time.Second)
		require.Equal(t, "r1", c.Status().Primary)
		w.nodes[2].pos.Store(7) // from the old one, on timeline 1
		time.Sleep(time.Second)
		require.Contains(t, c.Status().Nodes[2].Fenced, "follows a former primary")
		n, _ := where(t, t.Context(), c.DB())
		require.Equal(t, "r1", n)
		w.nodes[2].timeline.Store(2) // rebuilt
		time.Sleep(time.Second)
		require.Empty(t, c.Status().Nodes[2].Fenced)
		n, _ = where(t, t.Context(), c.DB())
		require.Equal(t, "r2", n)
	})
}

// A node that was added, or comes back, serves reads once it has what the primary had then; one that merely lags goes
// on serving.
func TestNodesCatchUpFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{})
		w.lag.Store(true)
		for range 5 {
			_, err := c.DB().Exec("write")
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		n, _ := where(t, t.Context(), c.DB())
		require.Equal(t, "r1", n, "no limit was asked for")
		r2 := &fakeNode{name: "r2", world: w}
		r2.timeline.Store(1)
		require.NoError(t, c.Add(Node{Name: "r2", Connector: r2}))
		w.nodes[1].down.Store(true)
		time.Sleep(time.Second)
		w.nodes[1].down.Store(false)
		time.Sleep(time.Second)
		require.Equal(t, "up", c.Status().Nodes[1].State)
		require.Positive(t, c.Status().Degraded)
		n, _ = where(t, t.Context(), c.DB())
		require.Equal(t, "p", n, "neither has caught up")
		_, err := c.DB().Exec("write")
		require.NoError(t, err)
		r2.pos.Store(5) // what there was when it came, not the newest
		time.Sleep(time.Second)
		n, _ = where(t, t.Context(), c.DB())
		require.Equal(t, "r2", n)
		w.nodes[1].pos.Store(6)
		time.Sleep(time.Second)
		require.Zero(t, c.Status().Degraded)
	})
}

// Cut off from a primary that its standbys still hear, a process does not promote; when they lose it too, it does.
func TestCutOffProcessDoesNotPromote(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		var errs []error
		var mu sync.Mutex
		c := start(t, w, Options{PrimaryWait: -1, Promotion: &Promotion{Lease: MemoryLease()},
			Hooks: &Hooks{Promoted: func(_ PromotionReport, err error) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}}})
		stop := make(chan struct{})
		go func() { // the primary's messages
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					w.heard.Store(time.Now().UnixNano())
				}
			}
		}()
		w.nodes[0].frozen.Store(true) // for us
		time.Sleep(10 * time.Second)
		require.Empty(t, c.Status().Primary)
		mu.Lock()
		require.NotEmpty(t, errs)
		require.ErrorIs(t, errs[0], ErrPromotion)
		require.ErrorContains(t, errs[0], "2 of 2 standbys hear from p")
		mu.Unlock()
		require.False(t, w.nodes[1].cut.Load(), "replication was not touched")
		close(stop)
		time.Sleep(10 * time.Second)
		require.NotEmpty(t, c.Status().Primary)
	})
}

// Reads stay in the zone unless its replica is behind what the session has seen.
func TestZoneYieldsToTheToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "far", "near")
		nodes := w.config()
		nodes[2].Zone = "eu"
		c, err := New(w.dialect(), nodes, Options{Zone: "eu", WaitBudget: -1})
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.WaitReady(t.Context()))
		time.Sleep(time.Second)
		ctx := WithSession(t.Context(), NewSession())
		_, err = c.DB().ExecContext(ctx, "write")
		require.NoError(t, err)
		w.nodes[2].pos.Store(0) // near has not replayed it
		time.Sleep(time.Second)
		n, pos := where(t, ctx, c.DB())
		require.Equal(t, "far", n)
		require.EqualValues(t, 1, pos)
		n, _ = where(t, t.Context(), c.DB())
		require.Equal(t, "near", n, "who has seen nothing")
		synctest.Wait()
	})
}
