package lb

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A day of backends that flap every few seconds: with MinHold the states change seldom, somebody can always be picked,
// and in the end all are up.
func TestADayOfFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes atomic.Int64
		start := time.Now()
		calm := func() bool { return time.Since(start) > 24*time.Hour }
		b, err := New(endpoints(5), Options{
			Health: Health{Interval: 10 * time.Second, MinHold: 5 * time.Minute,
				Probe: func(_ context.Context, tg Target) error {
					if !calm() && rand.IntN(2) == 0 {
						return errors.New("flap")
					}
					return nil
				}},
			Hooks: &Hooks{State: func(*Backend, BackendState, BackendState) { changes.Add(1) }},
		})
		require.NoError(t, err)
		defer b.Close()
		for !calm() {
			time.Sleep(time.Minute)
			l, err := b.Pick(t.Context(), Key{})
			require.NoError(t, err)
			l.Done(Result{})
		}
		time.Sleep(time.Hour)
		for _, be := range b.Backends() {
			require.Equal(t, StateUp, be.State())
		}
		require.LessOrEqual(t, changes.Load(), int64(5*24*60/5+5))
		require.Greater(t, changes.Load(), int64(100))
	})
}
