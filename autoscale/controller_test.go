package autoscale

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tier struct {
	mu     sync.Mutex // guards depth and err
	size   atomic.Int64
	depth  float64
	err    error
	broken []Instance
	made   []string
	sets   int
}

func sized(n int64, x *tier) *tier {
	x.size.Store(n)
	return x
}

func (x *tier) funcs() Funcs {
	return Funcs{
		Get:     func(context.Context) (int, error) { return int(x.size.Load()), nil },
		Set:     func(_ context.Context, n int) error { x.size.Store(int64(n)); x.sets++; return nil },
		Broken:  func(context.Context) ([]Instance, error) { return x.broken, nil },
		Replace: func(_ context.Context, id string) error { x.made = append(x.made, id); return nil },
	}
}

func (x *tier) samples(context.Context) ([]Sample, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return []Sample{{Metric: "depth", Value: x.depth}}, x.err
}

func (x *tier) load(depth float64, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.depth, x.err = depth, err
}

func TestControllerBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := sized(1, &tier{})
		c, err := New(x.funcs(), Policy{Min: 1, Max: 16, Metrics: []Metric{{Name: "depth", Target: 10}}}, x.samples,
			Options{})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		x.load(120, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 12, x.size.Load())
		x.load(0, nil)
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		require.EqualValues(t, 12, x.size.Load(), "within the 5 min window")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, x.size.Load())

		x.load(1000, errors.New("metrics are gone"))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, x.size.Load())
		x.load(math.NaN(), nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, x.size.Load())

		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		st := c.Stats()
		require.EqualValues(t, 1, st.Shrunk)
		require.EqualValues(t, 3, st.Grown) // 5, 10, 12
		require.EqualValues(t, 4, st.Errors)
		require.NotEmpty(t, c.Decisions())
	})
}

func TestReplacesWhatIsBrokenForTooLongOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := sized(3, &tier{broken: []Instance{{"web-2", time.Now()}}})
		c, err := New(x.funcs(), Policy{Min: 3, Max: 3, Metrics: []Metric{{Name: "depth", Target: 10}}}, x.samples,
			Options{})
		require.NoError(t, err)
		for range 20 {
			c.Look(t.Context())
			time.Sleep(15 * time.Second)
		}
		require.Equal(t, []string{"web-2"}, x.made)
		x.broken = []Instance{{"web-2", time.Now()}} // its successor broke too
		for range 20 {
			c.Look(t.Context())
			time.Sleep(15 * time.Second)
		}
		require.Equal(t, []string{"web-2", "web-2"}, x.made)
	})
}

func TestDryRunAndHungFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := sized(1, &tier{depth: 100})
		var told []Decision
		c, err := New(x.funcs(), Policy{Min: 1, Max: 16, Metrics: []Metric{{Name: "depth", Target: 10}}}, x.samples,
			Options{DryRun: true, OnDecision: func(d Decision, _ error) { told = append(told, d) }})
		require.NoError(t, err)
		d, err := c.Look(t.Context())
		require.NoError(t, err)
		require.Equal(t, 5, d.To)
		require.Zero(t, x.sets)
		require.Len(t, told, 1)

		f := x.funcs()
		f.Get = func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		c, err = New(f, Policy{Min: 1, Max: 16, Metrics: []Metric{{Name: "depth", Target: 10}}}, x.samples,
			Options{Timeout: time.Second})
		require.NoError(t, err)
		start := time.Now()
		_, err = c.Look(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		require.Zero(t, x.sets)
	})
}

func TestInvalidOptions(t *testing.T) {
	x := &tier{}
	ok := Policy{Min: 1, Max: 2, Metrics: []Metric{{Name: "depth", Target: 1}}}
	for want, f := range map[string]func() (*Controller, error){
		"Funcs.Get": func() (*Controller, error) { return New(Funcs{}, ok, x.samples, Options{}) },
		"samples":   func() (*Controller, error) { return New(x.funcs(), ok, nil, Options{}) },
		"Policy.Max": func() (*Controller, error) {
			p := ok
			p.Max = 0
			return New(x.funcs(), p, x.samples, Options{})
		},
		"Policy.Metrics[0].Name": func() (*Controller, error) {
			p := ok
			p.Metrics = []Metric{{Target: 1}}
			return New(x.funcs(), p, x.samples, Options{})
		},
		"Policy.Metrics[0].Target": func() (*Controller, error) {
			p := ok
			p.Metrics = []Metric{{Name: "a", Target: math.NaN()}}
			return New(x.funcs(), p, x.samples, Options{})
		},
		"Policy.Up.Rates[0]": func() (*Controller, error) {
			p := ok
			p.Up.Rates = []Rate{{}}
			return New(x.funcs(), p, x.samples, Options{})
		},
		"Policy.Schedules[0]": func() (*Controller, error) {
			p := ok
			p.Schedules = []Schedule{{}}
			return New(x.funcs(), p, x.samples, Options{})
		},
		"Options": func() (*Controller, error) { return New(x.funcs(), ok, x.samples, Options{Interval: -1}) },
	} {
		_, err := f()
		require.ErrorIs(t, err, ErrInvalid, want)
		require.ErrorContains(t, err, want)
	}
}
