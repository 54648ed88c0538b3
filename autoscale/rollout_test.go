package autoscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fleet is a tier whose instances take time to drain and start.
type fleet struct {
	mu      sync.Mutex
	version map[string]int // of each place
	down    int
	most    int // out at the same time
	steps   []string
	bad     map[string]bool // new instances that never get healthy
	sick    map[string]time.Time
}

func newFleet(n int) (*fleet, Rollout) {
	f := &fleet{version: map[string]int{}, bad: map[string]bool{}, sick: map[string]time.Time{}}
	var ids []string
	for i := range n {
		id := fmt.Sprint("i", i)
		f.version[id] = 1
		ids = append(ids, id)
	}
	return f, Rollout{
		Instances: ids,
		Drain: func(ctx context.Context, id string) error {
			time.Sleep(3 * time.Second)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.down++
			f.most = max(f.most, f.down)
			return nil
		},
		Replace: func(ctx context.Context, id string) (string, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.version[id] = 2
			return id + "-new", nil
		},
		Healthy: func(ctx context.Context, id string) error {
			time.Sleep(time.Second)
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.bad[id] {
				return errors.New("refused")
			}
			if at, ok := f.sick[id]; ok && time.Now().After(at) {
				return errors.New("falls over under load")
			}
			f.down = 0
			return nil
		},
		Restore: func(_ context.Context, old, fresh string) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if !strings.HasPrefix(fresh, old) {
				return errors.New("wrong pair")
			}
			f.version[old] = 1
			return nil
		},
		OnStep: func(s Step) { f.steps = append(f.steps, fmt.Sprintf("%s %v %d/%d", s.Phase, s.IDs, s.Done, s.Of)) },
	}
}

func TestRolloutReplacesABatchAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFleet(5)
		r.Batch = 2
		gates := 0
		r.Gate = func(context.Context) error { gates++; return nil }
		done, err := r.Run(t.Context())
		require.NoError(t, err)
		require.Len(t, done, 5)
		require.Equal(t, Replaced{"i0", "i0-new"}, done[0])
		require.Equal(t, 2, f.most, "never more than a batch is out")
		require.Equal(t, 3, gates)
		for id, v := range f.version {
			require.Equal(t, 2, v, id)
		}
		require.Equal(t, []string{"drain [i0 i1] 0/5", "replace [i0 i1] 0/5", "wait [i0-new i1-new] 0/5",
			"watch [i0-new i1-new] 0/5", "gate [i0-new i1-new] 0/5", "done [i0 i1] 2/5"}, f.steps[:6])
	})
}

func TestRolloutRollsBack(t *testing.T) {
	for name, spoil := range map[string]func(*fleet, *Rollout){
		"never healthy": func(f *fleet, _ *Rollout) { f.bad["i2-new"] = true },
		"not for long":  func(f *fleet, _ *Rollout) { f.sick["i2-new"] = time.Now().Add(35 * time.Second) },
		"gate": func(f *fleet, r *Rollout) {
			n := 0
			r.Gate = func(context.Context) error {
				if n++; n == 3 {
					return errors.New("error budget burns")
				}
				return nil
			}
		},
		"replace fails": func(f *fleet, r *Rollout) {
			replace := r.Replace
			r.Replace = func(ctx context.Context, id string) (string, error) {
				if id == "i2" {
					return "", errors.New("no image")
				}
				return replace(ctx, id)
			}
		},
		"drain fails": func(f *fleet, r *Rollout) {
			drain := r.Drain
			r.Drain = func(ctx context.Context, id string) error {
				if id == "i2" {
					return errors.New("unknown")
				}
				return drain(ctx, id)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, r := newFleet(5)
				spoil(f, &r)
				done, err := r.Run(t.Context())
				require.ErrorIs(t, err, ErrRolledBack)
				require.Empty(t, done)
				for id, v := range f.version {
					require.Equal(t, 1, v, "%s after %v", id, f.steps)
				}
				require.True(t, slices.ContainsFunc(f.steps, func(s string) bool {
					return strings.HasPrefix(s, "restore [i0]")
				}))
				require.False(t, slices.ContainsFunc(f.steps, func(s string) bool {
					return strings.Contains(s, "i3")
				}), "nothing goes on after a failure")
			})
		})
	}
}

func TestRolloutThatCannotGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFleet(3)
		f.bad["i1-new"] = true
		r.Restore = nil
		done, err := r.Run(t.Context())
		require.ErrorContains(t, err, "no Restore")
		require.NotErrorIs(t, err, ErrRolledBack)
		require.Len(t, done, 2, "says what is new")

		f, r = newFleet(3)
		f.bad["i1-new"] = true
		r.Restore = func(_ context.Context, old, _ string) error {
			if old == "i0" {
				return errors.New("disk full")
			}
			return nil
		}
		done, err = r.Run(t.Context())
		require.ErrorContains(t, err, "disk full")
		require.ErrorContains(t, err, "refused", "the cause is not forgotten")
		require.Equal(t, []Replaced{{"i0", "i0-new"}}, done)
	})
}

func TestRolloutStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, r := newFleet(4)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // in the middle of the second
		defer cancel()
		done, err := r.Run(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Len(t, done, 2, "the second is finished")
		require.Equal(t, 2, f.version["i1"])
		require.Equal(t, 1, f.version["i2"])
	})
	_, r := newFleet(2)
	r.Instances = []string{"a", "a"}
	_, err := r.Run(t.Context())
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "Rollout.Instances")
	r.Instances, r.Healthy = []string{"a"}, nil
	_, err = r.Run(t.Context())
	require.ErrorContains(t, err, "Rollout.Healthy")
}
