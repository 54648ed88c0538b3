package autoscale

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var t0 = time.Unix(1_000_000, 0)

// fast has no windows and no rate limits, so that a single call shows one rule.
func fast(ms ...Metric) Policy {
	return Policy{Min: 1, Max: 1000, Metrics: ms, Up: Direction{Rates: []Rate{{Count: 1 << 20, Period: time.Second}}},
		Down: Direction{Stabilize: -1}}
}

func TestRules(t *testing.T) {
	cpu := Metric{Name: "cpu", Target: 50, Kind: PerInstance}
	depth := Metric{Name: "depth", Target: 100}
	nan := math.NaN()
	for name, c := range map[string]struct {
		p       Policy
		current int
		samples []Sample
		want    int
	}{
		"grows in proportion":    {fast(cpu), 4, []Sample{{Metric: "cpu", Value: 4 * 90}}, 8}, // ceil(4*1.8)
		"shrinks in proportion":  {fast(cpu), 10, []Sample{{Metric: "cpu", Value: 10 * 20}}, 4},
		"within tolerance":       {fast(cpu), 10, []Sample{{Metric: "cpu", Value: 10 * 54}}, 10},
		"just outside tolerance": {fast(cpu), 10, []Sample{{Metric: "cpu", Value: 10 * 56}}, 12},
		"total":                  {fast(depth), 1, []Sample{{Metric: "depth", Value: 1001}}, 11},
		"total exactly":          {fast(depth), 1, []Sample{{Metric: "depth", Value: 1000}}, 10},
		"largest wins": {fast(cpu, depth), 2,
			[]Sample{{Metric: "cpu", Value: 2 * 100}, {Metric: "depth", Value: 900}}, 9},
		"missing never shrinks": {fast(cpu, depth), 8, []Sample{{Metric: "depth", Value: 100}}, 8},
		"missing may grow":      {fast(cpu, depth), 8, []Sample{{Metric: "depth", Value: 2000}}, 20},
		"NaN is missing":        {fast(depth), 8, []Sample{{Metric: "depth", Value: nan}}, 8},
		"infinite is missing":   {fast(depth), 8, []Sample{{Metric: "depth", Value: math.Inf(1)}}, 8},
		"negative is missing":   {fast(depth), 8, []Sample{{Metric: "depth", Value: -5}}, 8},
		"nothing at all":        {fast(depth), 8, nil, 8},
		// 750/50, not 30
		"absent count as idle growing": {fast(cpu), 10, []Sample{{Metric: "cpu", Value: 5 * 150, Reported: 5}}, 15},
		// (50+250)/50
		"absent count as full shrinking": {fast(cpu), 10, []Sample{{Metric: "cpu", Value: 5 * 10, Reported: 5}}, 6},
		"absent guess never flips":       {fast(cpu), 10, []Sample{{Metric: "cpu", Value: 2 * 60, Reported: 2}}, 10},
		"max":                            {fast(depth), 5, []Sample{{Metric: "depth", Value: 1e9}}, 1000},
		"min":                            {fast(depth), 5, []Sample{{Metric: "depth", Value: 0}}, 1},
		"a huge value does not overflow": {fast(depth), 5, []Sample{{Metric: "depth", Value: math.MaxFloat64}}, 1000},
		"from zero":                      {fast(depth), 0, []Sample{{Metric: "depth", Value: 1}}, 1},
		"per instance can't leave zero": {Policy{Max: 9, Metrics: []Metric{cpu}}, 0,
			[]Sample{{Metric: "cpu", Value: 0}}, 0},
		"below min is raised": {Policy{Min: 3, Max: 9, Metrics: []Metric{depth}}, 1, nil, 3},
		"default rate: double or 4": {Policy{Min: 1, Max: 1000, Metrics: []Metric{depth}}, 10,
			[]Sample{{Metric: "depth", Value: 1e6}}, 20},
		"default rate: 4 from 1": {Policy{Min: 1, Max: 1000, Metrics: []Metric{depth}}, 1,
			[]Sample{{Metric: "depth", Value: 1e6}}, 5},
		"strict takes the tightest": {Policy{Min: 1, Max: 1000, Metrics: []Metric{depth},
			Up: Direction{Strict: true, Rates: []Rate{{Count: 1, Period: time.Second},
				{Count: 9, Period: time.Second}}}}, 10, []Sample{{Metric: "depth", Value: 1e6}}, 11},
		"disabled": {Policy{Min: 1, Max: 1000, Metrics: []Metric{depth},
			Up: Direction{Disabled: true}}, 10, []Sample{{Metric: "depth", Value: 1e6}}, 10},
		"percent alone leaves zero": {Policy{Max: 9, Metrics: []Metric{depth},
			Up: Direction{Rates: []Rate{{Percent: 50, Period: time.Second}}}}, 0,
			[]Sample{{Metric: "depth", Value: 800}}, 1},
		"schedule raises": {Policy{Min: 1, Max: 9, Metrics: []Metric{depth},
			Schedules: []Schedule{{Active: func(time.Time) bool {
				return true
			}, Min: 4}}}, 1, []Sample{{Metric: "depth", Value: 1}}, 4},
		"schedule caps": {Policy{Min: 1, Max: 9, Metrics: []Metric{depth}, Up: fast().Up,
			Schedules: []Schedule{{Active: func(time.Time) bool {
				return true
			}, Max: 3}}}, 1, []Sample{{Metric: "depth", Value: 900}}, 3},
		"an inactive schedule is nothing": {Policy{Min: 1, Max: 9, Metrics: []Metric{depth}, Up: fast().Up,
			Schedules: []Schedule{{Active: func(time.Time) bool {
				return false
			}, Max: 3}}}, 1, []Sample{{Metric: "depth", Value: 900}}, 9},
		"an invalid policy changes none": {Policy{Max: 0}, 7, nil, 7},
	} {
		t.Run(name, func(t *testing.T) {
			d := Desired(State{Current: c.current}, c.p, c.samples, t0)
			require.Equal(t, c.want, d.To, d.Reason)
			require.Equal(t, c.want, d.State.Current)
			require.NotEmpty(t, d.Reason)
		})
	}
}

// feed runs the law over a series of depths, one call per step, and returns the sizes.
func feed(p Policy, step time.Duration, depths ...float64) (sizes []int) {
	s, now := State{Current: p.Min}, t0
	for _, v := range depths {
		d := Desired(s, p, []Sample{{Metric: "depth", Value: v}}, now)
		s, now = d.State, now.Add(step)
		sizes = append(sizes, d.To)
	}
	return sizes
}

func TestStabilisation(t *testing.T) {
	p := fast(Metric{Name: "depth", Target: 10})
	p.Down.Stabilize = 30 * time.Second
	require.Equal(t, []int{10, 10, 10, 10, 1}, feed(p, 10*time.Second, 100, 10, 10, 10, 10),
		"shrinks when the whole window agrees")
	require.Equal(t, []int{10, 10, 10, 10, 8, 8, 5}, feed(p, 10*time.Second, 100, 10, 80, 10, 50, 10, 10),
		"to the largest proposal of the window")
	p.Up.Stabilize = 20 * time.Second
	require.Equal(t, []int{10, 10, 10}, feed(p, 10*time.Second, 100, 100, 100))
	p.Min = 2
	s := State{Current: 2, Proposals: []Proposal{{t0, 2}}}
	require.Equal(t, 2, Desired(s, p, []Sample{{Metric: "depth", Value: 100}}, t0.Add(10*time.Second)).To,
		"a spike shorter than the window")
}

func TestRatesCountWhatHappenedInThePeriod(t *testing.T) {
	p := fast(Metric{Name: "depth", Target: 1})
	p.Up.Rates = []Rate{{Count: 3, Period: time.Minute}}
	require.Equal(t, []int{4, 4, 4, 7, 7}, feed(p, 20*time.Second, 99, 99, 99, 99, 99))
	p.Down = Direction{Stabilize: -1, Rates: []Rate{{Percent: 50, Period: time.Minute}}}
	s := State{Current: 100}
	d := Desired(s, p, []Sample{{Metric: "depth", Value: 1}}, t0)
	require.Equal(t, 50, d.To)
	require.Equal(t, 50, Desired(d.State, p, []Sample{{Metric: "depth", Value: 1}}, t0.Add(30*time.Second)).To,
		"half of the 100 at the start of the period is used up")
	require.Equal(t, 25, Desired(d.State, p, []Sample{{Metric: "depth", Value: 1}}, t0.Add(61*time.Second)).To)
}

func TestToZeroAndBack(t *testing.T) {
	p := Policy{Max: 5, Metrics: []Metric{{Name: "depth", Target: 10}}, Down: Direction{Stabilize: 30 * time.Second}}
	require.Equal(t, []int{1, 1, 1, 1, 0, 0, 2}, feed(p, 10*time.Second, 5, 0, 0, 0, 0, 0, 20))
}

func TestClockJumps(t *testing.T) {
	p := fast(Metric{Name: "depth", Target: 10})
	p.Down.Stabilize = time.Minute
	d := Desired(State{Current: 1}, p, []Sample{{Metric: "depth", Value: 100}}, t0.Add(24*time.Hour))
	require.Equal(t, 10, d.To)
	d = Desired(d.State, p, []Sample{{Metric: "depth", Value: 200}}, t0) // a day back
	require.Equal(t, 20, d.To, "growth goes on")
	for i := range 7 {
		d = Desired(d.State, p, []Sample{{Metric: "depth", Value: 10}}, t0.Add(time.Duration(i+1)*10*time.Second))
	}
	require.Equal(t, 1, d.To, "and shrinking is not blocked until the old clock is reached again")
}

// Never outside the bounds; never shrinks below any proposal made within the window; no change without a reason.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := rapid.IntRange(0, 5).Draw(t, "min")
		p := Policy{Min: lo, Max: lo + rapid.IntRange(1, 50).Draw(t, "span"),
			Metrics: []Metric{{Name: "depth", Target: 10}, {Name: "cpu", Target: 0.5, Kind: PerInstance}},
			Down:    Direction{Stabilize: time.Duration(rapid.IntRange(1, 120).Draw(t, "down")) * time.Second},
			Up:      Direction{Stabilize: time.Duration(rapid.IntRange(0, 60).Draw(t, "up")) * time.Second}}
		s, now := State{Current: p.Min}, t0
		type past struct {
			at   time.Time
			size int
		}
		var proposals []past
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "dt")) * time.Second)
			var samples []Sample
			if rapid.Bool().Draw(t, "has depth") {
				samples = append(samples, Sample{Metric: "depth", Value: rapid.Float64Range(0, 2000).Draw(t, "depth")})
			}
			if rapid.Bool().Draw(t, "has cpu") {
				samples = append(samples, Sample{Metric: "cpu", Value: rapid.Float64Range(0, 30).Draw(t, "cpu"),
					Reported: rapid.IntRange(0, 60).Draw(t, "n")})
			}
			d := Desired(s, p, samples, now)
			proposals = append(proposals, past{now, d.Proposed})
			if d.To < p.Min || d.To > p.Max {
				t.Fatalf("%d is outside %d..%d", d.To, p.Min, p.Max)
			}
			if d.To < d.From {
				for _, q := range proposals {
					if now.Sub(q.at) <= p.Down.Stabilize && min(q.size, p.Max) > max(d.To, p.Min) {
						t.Fatalf("shrank to %d although %d was asked for %v ago", d.To, q.size, now.Sub(q.at))
					}
				}
			}
			s = d.State
		}
		if len(s.Proposals) > 122 {
			t.Fatal("history grows without bound")
		}
	})
}
