package shard

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// A celebrity gets a slot and a shard of its own while it is written to and read, by processes that do not know of it
// yet; the mover dies on the way.
func TestPin(t *testing.T) {
	testdb.On(t, testdb.All, func(t *testing.T, p *testdb.Kind) {
		w := newWorld(t, p, 2, 16, 100)
		ctx := t.Context()
		w.traffic(3, 1)
		stop := make(chan struct{})
		var star sync.WaitGroup
		other := w.process(0)
		for _, f := range []func(i int64){
			func(i int64) { w.write(other, 8, i, 0) },
			func(int64) { w.read(other, 8) },
			func(int64) { w.read(w.c, 8) },
		} {
			star.Go(func() {
				for i := int64(1); ; i++ {
					select {
					case <-stop:
						return
					default:
						f(i)
						w.rest()
					}
				}
			})
		}
		crashed := map[string]bool{}
		step := func(name string) error {
			if !crashed[name] && len(crashed) < 6 {
				crashed[name] = true
				return mover.ErrCrash
			}
			return nil
		}
		j, err := w.c.Pin(ctx, Int(8), "s2", MoveOptions{Chunk: 3, step: step})
		require.NoError(t, err)
		for err = j.Wait(ctx); err != nil; err = j.Wait(ctx) {
			require.ErrorIs(t, err, mover.ErrCrash)
			j, err = w.c.Resume(ctx, MoveOptions{Chunk: 3, step: step})
			require.NoError(t, err)
			require.NotNil(t, j)
		}
		time.Sleep(30 * time.Millisecond)
		close(stop)
		star.Wait()
		w.quiet()
		m := w.c.Map()
		require.EqualValues(t, 16, m.SlotOf(Int(8)))
		require.EqualValues(t, "s2", m.Owner(16))
		stale := w.process(0)
		j, err = w.c.Pin(ctx, Int(8), "s0", MoveOptions{}) // and on
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		w.read(stale, 8)
		stale = w.process(0)
		j, err = w.c.Pin(ctx, Int(9), w.c.Map().Owner(w.c.Slot(Int(9))), MoveOptions{}) // where it is
		require.NoError(t, err)
		require.NoError(t, j.Wait(ctx))
		require.EqualValues(t, 17, w.c.Slot(Int(9)))
		w.write(stale, 9, 1235, 0)
		w.write(w.c, 8, 1234, 0)
		w.check()
		_, err = w.c.Pin(ctx, Composite("a", 1), "s0", MoveOptions{})
		require.ErrorIs(t, err, ErrPreflight)
		require.Equal(t, []string{"a", "-7", "x"}, Composite("a", -7, []byte("x")).parts())
	})
}
