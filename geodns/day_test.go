package geodns

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

// A day of centers that flap: with MinHold the answers change seldom, and there always is one.
func TestADayOfFlappingCenters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		calm := func() bool { return time.Since(start) > 24*time.Hour }
		ds := dcs()
		for i := range ds {
			ds[i].Check = func(context.Context) error {
				if !calm() && rand.IntN(2) == 0 {
					return errors.New("flap")
				}
				return nil
			}
		}
		var changes atomic.Int64
		r, err := NewRouter(RouterOptions{DCs: ds, Locator: table(t), OnChange: func(Change) { changes.Add(1) },
			Health: HealthOptions{Interval: 10 * time.Second, MinHold: 10 * time.Minute}})
		require.NoError(t, err)
		defer r.Close()
		for !calm() {
			time.Sleep(time.Minute)
			require.NotEmpty(t, r.Route(ip("10.2.0.1")).Addrs)
		}
		time.Sleep(time.Hour)
		require.Equal(t, "eu", r.Route(ip("10.2.0.1")).DC)
		require.LessOrEqual(t, changes.Load(), int64(3*24*6+3))
		require.Greater(t, changes.Load(), int64(50))
	})
}
