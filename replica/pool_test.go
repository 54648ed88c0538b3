package replica

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Connections change hands between the exchange without a lock, the free list and those who wait: none is lost, none is
// given to two, and nobody waits for one that lies idle, whatever else happens to the node.
func TestPoolUnderContention(t *testing.T) {
	for _, idle := range []int{-1, 1, 8} {
		bubble(t, func(t *testing.T) {
			w := newWorld("p")
			f := w.nodes[0]
			n := newNode(Node{Name: "p", Connector: f})
			lim := &limits{maxConns: 3, maxIdle: idle}
			var mu sync.Mutex
			used := map[*phys]bool{}
			var wg sync.WaitGroup
			for g := range 12 {
				wg.Go(func() {
					for i := range 400 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
						p, err := n.borrow(ctx, lim)
						cancel()
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						if used[p] {
							t.Error("one connection, two users")
						}
						used[p] = true
						mu.Unlock()
						if (g+i)%7 == 0 {
							time.Sleep(time.Microsecond)
						}
						p.broken = (g+i)%11 == 0
						mu.Lock()
						delete(used, p)
						mu.Unlock()
						n.giveBack(p, lim)
					}
				})
			}
			wg.Go(func() {
				for i := range 200 {
					time.Sleep(time.Microsecond)
					switch i % 3 {
					case 0:
						n.gen.Add(1)
					default:
						n.discardIdle(uint32(i % 2))
					}
				}
			})
			wg.Wait()
			synctest.Wait()
			require.LessOrEqual(t, f.open.Load(), int64(3))
			inUse, idleNow := n.counts()
			require.Zero(t, inUse)
			require.LessOrEqual(t, idleNow, max(idle, 0))
			n.retire()
			require.Zero(t, f.open.Load())
		})
	}
}
