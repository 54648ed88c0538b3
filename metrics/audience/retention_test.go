package audience

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetention(t *testing.T) {
	r, err := NewRetention(RetentionOptions{Keep: 4})
	require.NoError(t, err)
	monday := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	now := monday.AddDate(0, 0, 7*5+6).Add(23 * time.Hour) // the sixth Sunday
	seen := func(user string, joined, at time.Time) {
		if !at.After(now) {
			r.Seen(user, joined, at)
		}
	}
	for week := range 6 {
		for i := range 3000 {
			joined := monday.AddDate(0, 0, 7*week).Add(time.Duration(i) * time.Minute)
			user := fmt.Sprintf("u-%d-%d", week, i)
			seen(user, joined, joined)
			if i < 1000 {
				seen(user, joined, joined.AddDate(0, 0, 7))
				seen(user, joined, joined.AddDate(0, 0, 8)) // twice in a week counts once
			}
			if i < 100 {
				seen(user, joined, joined.AddDate(0, 0, 14))
			}
			r.Seen(user, joined, joined.AddDate(0, 0, -7)) // before it joined: a clock is wrong
			r.Seen(user, joined, joined.AddDate(1, 0, 0))  // beyond what is followed
		}
	}
	table := r.Cohorts(now)
	require.Len(t, table, 4, "older cohorts are forgotten")
	for i, c := range table {
		require.Equal(t, monday.AddDate(0, 0, 7*(2+i)), c.Start)
		require.Len(t, c.Active, 4-i)
		for age, want := range []float64{3000, 1000, 100}[:min(3, 4-i)] {
			require.InEpsilon(t, want, float64(c.Active[age]), 0.05)
		}
	}
	require.Zero(t, table[0].Active[3])

	again, err := NewRetention(RetentionOptions{Keep: 4})
	require.NoError(t, err)
	require.NoError(t, again.Import(r.Export()))
	require.Equal(t, table, again.Cohorts(now))
	require.ErrorIs(t, again.Import(map[string][]byte{"x": nil}), ErrSketch)
	require.ErrorIs(t, again.Import(map[string][]byte{"1+99": r.Export()[fmt.Sprintf("%d+0", r.period(now))]}),
		ErrSketch)
	for name, o := range map[string]RetentionOptions{"Days": {Days: 1000}, "Keep": {Keep: -1}} {
		_, err := NewRetention(o)
		require.ErrorContains(t, err, "RetentionOptions."+name)
	}

	// A period's days are dates of the place, also when the clocks change.
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	daily, err := NewRetention(RetentionOptions{Days: 1, Location: berlin})
	require.NoError(t, err)
	late := time.Date(2026, 3, 29, 23, 30, 0, 0, berlin) // a day of 23 hours
	require.Equal(t, daily.period(late)+1, daily.period(late.Add(time.Hour)))
	require.Equal(t, time.Date(2026, 3, 29, 0, 0, 0, 0, berlin), daily.start(daily.period(late)))
}

// memoryKV is a store in which writes can be lost to another node's, as they can in any.
type memoryKV struct {
	mu   sync.Mutex
	m    map[string][]byte
	fail error
}

func (kv *memoryKV) Get(_ context.Context, k string) ([]byte, error) {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	return kv.m[k], kv.fail
}

func (kv *memoryKV) CompareAndSwap(_ context.Context, k string, old, v []byte) (bool, error) {
	kv.mu.Lock()
	defer kv.mu.Unlock()
	if now, ok := kv.m[k]; ok != (old != nil) || !bytes.Equal(now, old) {
		return false, kv.fail
	}
	kv.m[k] = v
	return true, kv.fail
}

func TestSyncConverges(t *testing.T) {
	kv := &memoryKV{m: map[string][]byte{}}
	now := time.Now()
	var nodes []*Uniques
	var wg sync.WaitGroup
	for n := range 4 {
		u := NewUniques(nil)
		nodes = append(nodes, u)
		wg.Go(func() {
			for i := range 10_000 {
				u.Add(fmt.Sprintf("user-%d", i+n*1000), now)
				if i%1000 == 0 {
					if err := Sync(t.Context(), kv, "uniques/", u); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	nodes = append(nodes, NewUniques(nil)) // one that has just started
	for range 2 {
		for _, u := range nodes {
			require.NoError(t, Sync(t.Context(), kv, "uniques/", u))
		}
	}
	for _, u := range nodes {
		require.Equal(t, nodes[0].At(now), u.At(now))
		require.InEpsilon(t, 13_000, u.At(now).Day, 0.02)
	}
	kv.m["uniques/"+now.UTC().Format(time.DateOnly)] = []byte("not ours")
	require.ErrorIs(t, Sync(t.Context(), kv, "uniques/", nodes[0]), ErrSketch)
	require.Equal(t, "not ours", string(kv.m["uniques/"+now.UTC().Format(time.DateOnly)]))
	kv.fail = errors.New("store is down")
	require.ErrorIs(t, Sync(t.Context(), kv, "uniques/", nodes[1]), kv.fail)
}

// lockstepKV lets two nodes read before either writes.
type lockstepKV struct {
	memoryKV
	reads sync.WaitGroup
	once  [2]sync.Once
}

type lockstepNode struct {
	*lockstepKV
	n int
}

func (l lockstepNode) CompareAndSwap(ctx context.Context, k string, old, v []byte) (bool, error) {
	l.once[l.n].Do(func() {
		l.reads.Done()
		l.reads.Wait()
	})
	return l.memoryKV.CompareAndSwap(ctx, k, old, v)
}

// Two servers that stop at the same moment, each after its last Sync, lose none of their users.
func TestTwoLastSyncsAtOnce(t *testing.T) {
	kv := &lockstepKV{memoryKV: memoryKV{m: map[string][]byte{}}}
	kv.reads.Add(2)
	now := time.Now()
	var all sync.WaitGroup
	for n := range 2 {
		all.Go(func() {
			u := NewUniques(nil)
			for i := range 1000 {
				u.Add(fmt.Sprintf("user-%d-%d", n, i), now)
			}
			if err := Sync(t.Context(), lockstepNode{kv, n}, "u/", u); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	later := NewUniques(nil)
	require.NoError(t, Sync(t.Context(), &kv.memoryKV, "u/", later))
	require.InEpsilon(t, 2000, later.At(now).Day, 0.03)
}

// Merging is commutative and idempotent: whatever the order and number of imports, the estimates are the same.
func TestMergeIsCommutativeAndIdempotent(t *testing.T) {
	now := time.Now()
	parts := make([]map[string][]byte, 3)
	for n := range parts {
		u := NewUniques(nil)
		for i := range 500 {
			u.Add(fmt.Sprintf("user-%d", i+300*n), now.AddDate(0, 0, -n))
		}
		parts[n] = u.Export()
	}
	var first map[string][]byte
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 1, 0, 2, 0, 2}} {
		u := NewUniques(nil)
		for _, n := range order {
			require.NoError(t, u.Import(parts[n]))
		}
		if first == nil {
			first = u.Export()
		}
		require.Equal(t, first, u.Export())
	}
}

// One event with a wrong date, or one export of a machine with a wrong clock, erases nothing.
func TestWrongDatesEraseNothing(t *testing.T) {
	now := time.Now()
	u := NewUniques(nil)
	r, err := NewRetention(RetentionOptions{})
	require.NoError(t, err)
	for i := range 1000 {
		u.Add(fmt.Sprint(i), now)
		r.Seen(fmt.Sprint(i), now, now)
	}
	before, cohorts := u.At(now), r.Cohorts(now)
	for _, wrong := range []time.Time{now.AddDate(1, 0, 0), now.AddDate(0, 0, 3), now.AddDate(-5, 0, 0),
		time.Unix(1<<60, 0), {}} {
		u.Add("eve", wrong)
		r.Seen("eve", wrong, wrong)
	}
	require.NoError(t, u.Import(map[string][]byte{
		now.AddDate(1, 0, 0).Format(time.DateOnly): u.Export()[now.UTC().Format(
			time.DateOnly)]}))
	future, err := NewRetention(RetentionOptions{})
	require.NoError(t, err)
	cells := r.Export()
	for _, b := range cells {
		require.NoError(t, r.Import(map[string][]byte{cell{future.period(now) + 60, 0}.String(): b}))
	}
	require.Equal(t, before, u.At(now))
	require.Equal(t, cohorts, r.Cohorts(now))
	u.Add("a friend in Auckland", now.Add(20*time.Hour))
	require.NotZero(t, u.At(now.Add(20*time.Hour)).Week)
}
