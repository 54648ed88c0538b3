package replica

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// startWith is start with a dialect whose hooks were changed.
func startWith(t *testing.T, w *fakeWorld, o Options, change func(h *PlainHooks)) *Cluster {
	t.Helper()
	d := w.dialect().(*plainPromoter)
	change(&d.h)
	c, err := New(d, w.config(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	require.NoError(t, c.WaitReady(t.Context()))
	synctest.Wait()
	return c
}

func serverOf(c driver.Conn) *fakeNode { return c.(*fakeConn).f }

// leaseFunc does something while the lease is waited for.
type leaseFunc struct {
	Lease
	acquire func()
}

func (l *leaseFunc) Acquire(ctx context.Context, key string, ttl time.Duration) (uint64, error) {
	if f := l.acquire; f != nil {
		l.acquire = nil
		f()
	}
	return l.Lease.Acquire(ctx, key, ttl)
}

// Another process promoted a standby while this one waited for the lease, and this one has not seen it yet: it does not
// promote a second one.
func TestPromotedByAnotherProcess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		lease := &leaseFunc{Lease: MemoryLease(), acquire: func() {
			w.nodes[2].timeline.Store(2)
			w.nodes[2].primary.Store(true)
		}}
		c := start(t, w, Options{Promotion: &Promotion{Lease: lease}})
		w.nodes[0].down.Store(true)
		time.Sleep(5 * time.Second)
		require.Equal(t, "r2", c.Status().Primary)
		require.False(t, w.nodes[1].primary.Load())
		require.EqualValues(t, 2, w.nodes[2].timeline.Load())
		require.False(t, w.nodes[1].cut.Load(), "it follows the new one")
	})
}

// The primary was back before the lease was granted, or before the candidate was promoted: it stays.
func TestPrimaryBackInTime(t *testing.T) {
	for _, when := range []string{"lease", "before"} {
		t.Run(when, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld("p", "r1", "r2")
				back := func() {
					w.nodes[0].down.Store(false)
					time.Sleep(time.Second)
				}
				lease, p := &leaseFunc{Lease: MemoryLease()}, &Promotion{}
				p.Lease = lease
				if when == "lease" {
					lease.acquire = back
				} else {
					p.Before = func(context.Context, NodeStatus, uint64) error { back(); return nil }
				}
				c := start(t, w, Options{Promotion: p})
				w.nodes[0].down.Store(true)
				time.Sleep(5 * time.Second)
				require.Equal(t, "p", c.Status().Primary)
				require.Zero(t, c.Stats().Promotions)
				require.False(t, w.nodes[1].primary.Load() || w.nodes[2].primary.Load())
				require.False(t, w.nodes[1].cut.Load() || w.nodes[2].cut.Load())
			})
		})
	}
}

// The answer of the promotion is lost: the node that was told is found as the primary, nobody else is promoted, and the
// others follow it.
func TestPromotionWithoutAnswer(t *testing.T) {
	for name, late := range map[string]time.Duration{"at once": 0, "later": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld("p", "r2", "r1")
				told := atomic.Int64{}
				c := startWith(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}}, func(h *PlainHooks) {
					promote := h.Promote
					h.Promote = func(ctx context.Context, c driver.Conn) (NodeState, error) {
						if told.Add(1) == 1 {
							go func() {
								time.Sleep(late)
								_, _ = promote(ctx, c)
							}()
							time.Sleep(time.Millisecond)
							return NodeState{}, errors.New("fake: connection lost")
						}
						time.Sleep(10 * time.Second)
						return NodeState{}, errors.New("fake: too late")
					}
				})
				w.nodes[2].received.Store(1) // the furthest, when it is first asked
				w.nodes[0].down.Store(true)
				time.Sleep(time.Second)
				w.nodes[2].received.Store(0)
				time.Sleep(30 * time.Second)
				require.Equal(t, "r1", c.Status().Primary)
				require.False(t, w.nodes[1].primary.Load())
				require.False(t, w.nodes[1].cut.Load(), "it follows")
				_, err := c.DB().Exec("write")
				require.NoError(t, err)
			})
		})
	}
}

// A probe sees the new primary before the promotion has returned. What was begun on it by then goes on.
func TestProbeIsFasterThanThePromotion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		var c *Cluster
		var tx *sql.Tx
		c = startWith(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}}, func(h *PlainHooks) {
			promote := h.Promote
			h.Promote = func(ctx context.Context, conn driver.Conn) (NodeState, error) {
				st, err := promote(ctx, conn)
				for c.Status().Primary != "r1" {
					time.Sleep(time.Millisecond)
				}
				tx, _ = c.DB().Begin()
				return st, err
			}
		})
		_, err := c.Promote(t.Context(), "r1")
		require.NoError(t, err)
		_, err = tx.Exec("write")
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
	})
}

// A standby that was frozen during the promotion, or could not be told then, follows the new primary when it answers.
func TestStraysArePointedToThePrimary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2", "r3")
		var deaf atomic.Bool
		deaf.Store(true)
		told := map[string]int{}
		c := startWith(t, w, Options{Promotion: &Promotion{Lease: MemoryLease(), MinStandbys: 2}}, func(h *PlainHooks) {
			follow := h.Follow
			h.Follow = func(ctx context.Context, c driver.Conn, p Node) error {
				require.Equal(t, "r1", p.Name)
				told[serverOf(c).name]++
				if serverOf(c).name == "r2" && deaf.Load() {
					return errors.New("fake: deaf")
				}
				return follow(ctx, c, p)
			}
		})
		w.nodes[1].received.Store(1)
		w.nodes[3].down.Store(true)
		w.nodes[0].down.Store(true)
		time.Sleep(5 * time.Second)
		require.Equal(t, "r1", c.Status().Primary)
		require.True(t, w.nodes[2].cut.Load())
		require.Zero(t, told["r3"])
		deaf.Store(false)
		w.nodes[3].down.Store(false)
		time.Sleep(2 * time.Minute)
		require.False(t, w.nodes[2].cut.Load())
		require.Equal(t, 1, told["r3"], "once is enough")
		n := told["r2"]
		time.Sleep(5 * time.Minute)
		require.Equal(t, n, told["r2"])
	})
}

// The lease ends while Promotion.Before takes its time: somebody else may promote now, so this process does not.
func TestLeaseEndsBeforeThePromotion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		lease := MemoryLease()
		var other atomic.Bool
		c := start(t, w, Options{PrimaryWait: -1,
			Promotion: &Promotion{Lease: lease, LeaseTTL: 5 * time.Second,
				Before: func(context.Context, NodeStatus, uint64) error {
					time.Sleep(6 * time.Second)
					_, err := lease.Acquire(t.Context(), "tierkit/replica/db", time.Hour)
					other.CompareAndSwap(false, err == nil)
					return nil
				}}})
		w.nodes[0].down.Store(true)
		time.Sleep(20 * time.Second)
		require.True(t, other.Load())
		require.False(t, w.nodes[1].primary.Load())
		require.Zero(t, c.Stats().Promotions)
	})
}

// A lease whose store hangs does not hold up the next promotion for ever.
func TestLeaseReleaseHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{Promotion: &Promotion{Lease: hangingRelease{MemoryLease()}, MinStandbys: 1,
			LeaseTTL: time.Second}})
		_, err := c.Promote(t.Context(), "r1")
		require.NoError(t, err)
		_, err = c.Promote(t.Context(), "r2")
		require.NoError(t, err)
	})
}

type hangingRelease struct{ Lease }

func (hangingRelease) Release(ctx context.Context, _ string, _ uint64) error {
	<-ctx.Done()
	return ctx.Err()
}

// After counts from the last loss: a primary that was back in between starts it anew.
func TestPromotionAfterCountsAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease(), After: 10 * time.Second}})
		w.nodes[0].down.Store(true)
		time.Sleep(5 * time.Second)
		w.nodes[0].down.Store(false)
		time.Sleep(3 * time.Second)
		require.Equal(t, "p", c.Status().Primary)
		w.nodes[0].down.Store(true)
		time.Sleep(5 * time.Second)
		require.Zero(t, c.Stats().Promotions)
		time.Sleep(10 * time.Second)
		require.EqualValues(t, 1, c.Stats().Promotions)
	})
}

// A primary that is removed while it is up is not lost; one that is removed while it is down is, and every standby
// counts.
func TestRemovedPrimary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{PrimaryWait: -1, Promotion: &Promotion{Lease: MemoryLease()}})
		p := w.config()[0]
		require.NoError(t, c.Remove("p"))
		time.Sleep(10 * time.Second)
		require.Zero(t, c.Stats().Promotions, "it is the primary of the others")
		require.NoError(t, c.Add(p))
		time.Sleep(time.Second)
		_, err := c.DB().Exec("write")
		require.NoError(t, err)

		w.nodes[2].down.Store(true) // it may hold the last acknowledged write
		w.nodes[0].down.Store(true)
		time.Sleep(time.Second)
		require.NoError(t, c.Remove("p"))
		time.Sleep(10 * time.Second)
		require.Zero(t, c.Stats().Promotions)
		w.nodes[2].down.Store(false)
		time.Sleep(10 * time.Second)
		require.EqualValues(t, 1, c.Stats().Promotions)
	})
}

// A node that drains gets no work, so it is no candidate: as the primary it would take no write.
func TestDrainingNodeIsNotPromoted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}})
		require.NoError(t, c.Drain(t.Context(), "r1"))
		w.nodes[0].down.Store(true)
		time.Sleep(5 * time.Second)
		require.Equal(t, "r2", c.Status().Primary)
		_, err := c.DB().Exec("write")
		require.NoError(t, err)
	})
}

func TestPromoteAfterClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1")
		c := start(t, w, Options{Promotion: &Promotion{Lease: MemoryLease()}})
		require.NoError(t, c.Close())
		_, err := c.Promote(t.Context(), "")
		require.ErrorIs(t, err, ErrClosed)
		require.False(t, w.nodes[1].primary.Load())
	})
}

// A hook may remove the node it is told of.
func TestHookRemovesNode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld("p", "r1", "r2")
		var c *Cluster
		removed := make(chan error, 1)
		c = start(t, w, Options{Hooks: &Hooks{NodeChanged: func(before, after NodeStatus) {
			if after.State == "down" {
				removed <- c.Remove(after.Name)
			}
		}}})
		w.nodes[2].down.Store(true)
		select {
		case err := <-removed:
			require.NoError(t, err)
		case <-time.After(time.Minute):
			t.Fatal("hangs")
		}
		require.Len(t, c.Status().Nodes, 2)
		w.nodes[2].down.Store(false)
		require.NoError(t, c.Add(w.config()[2]))
		time.Sleep(time.Second)
		require.Equal(t, "up", c.Status().Nodes[2].State)
	})
}
