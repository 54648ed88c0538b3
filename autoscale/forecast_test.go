package autoscale

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const day = 24 * time.Hour

// demand is a site's: quiet nights, a steep rise at eight, an evening peak, less on Saturday and Sunday.
func demand(at time.Time) float64 {
	h := at.Sub(at.Truncate(day)).Hours()
	bump := func(from, rise, to, fall float64) float64 {
		return min(1, max(0, (h-from)/rise)) * min(1, max(0, (to-h)/fall))
	}
	d := 100 + 700*bump(8, 0.25, 17, 2) + 500*bump(19, 0.5, 23, 1)
	if wd := at.Weekday(); wd == time.Saturday || wd == time.Sunday {
		d = 100 + (d-100)*0.4
	}
	return d
}

var monday = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func history(from time.Time, length, step time.Duration, f func(time.Time) float64) History {
	h := History{Start: from, Step: step}
	for at := from; at.Before(from.Add(length)); at = at.Add(step) {
		h.Values = append(h.Values, f(at.Add(step/2)))
	}
	return h
}

func TestForecastSeesTheMorning(t *testing.T) {
	now := monday.Add(4*day + 7*time.Hour + 55*time.Minute) // Friday, five to eight
	rnd := rand.New(rand.NewPCG(1, 1))
	noisy := func(at time.Time) float64 { return demand(at) * (1 + 0.1*rnd.NormFloat64()) }
	for name, f := range map[string]func(time.Time) float64{"as it was": demand, "with noise": noisy} {
		h := history(monday, now.Sub(monday), 5*time.Minute, f)
		got, ok := h.Forecast(now, 20*time.Minute, day)
		require.True(t, ok, name)
		require.InEpsilon(t, 800, got, 0.3, name)
		got, ok = h.Forecast(now.Add(-3*time.Hour), 20*time.Minute, day)
		require.False(t, ok && got > 0, "that history is of the future")
	}
	// a level that has doubled today shows in the forecast, though never beyond what was seen
	busy := history(monday, 6*day, 5*time.Minute, func(at time.Time) float64 {
		if at.After(monday.Add(4 * day)) {
			return 2 * demand(at.Add(-4*day)) // weekdays
		}
		return demand(at)
	})
	got, ok := busy.Forecast(monday.Add(6*day), 9*time.Hour, day)
	require.True(t, ok)
	require.InEpsilon(t, 1600, got, 0.15)
}

// On Saturday morning a day's season expects Friday's rise; a week's knows better.
func TestForecastChoosesTheSeason(t *testing.T) {
	now := monday.Add(3*7*day + 5*day + 7*time.Hour + 50*time.Minute)
	h := history(monday, now.Sub(monday), 5*time.Minute, demand)
	week, ok := h.Forecast(now, 30*time.Minute, day, 7*day)
	require.True(t, ok)
	require.InEpsilon(t, 380, week, 0.1)
}

func TestForecastRefuses(t *testing.T) {
	noise := rand.New(rand.NewPCG(5, 6))
	flat := func(time.Time) float64 { return 100 }
	for name, c := range map[string]struct {
		h       History
		now     time.Time
		ahead   time.Duration
		seasons []time.Duration
	}{
		"nothing": {History{Step: time.Minute}, monday, time.Hour, []time.Duration{day}},
		"no step": {History{Values: []float64{1}}, monday, time.Hour, []time.Duration{day}},
		"too young": {history(monday, 2*day-time.Hour, 5*time.Minute, demand),
			monday.Add(2*day - time.Hour), time.Hour, []time.Duration{day}},
		"long over": {history(monday, 4*day, 5*time.Minute, demand), monday.Add(5 * day), time.Hour,
			[]time.Duration{day}},
		"no season asked for": {history(monday, 4*day, 5*time.Minute, demand), monday.Add(4 * day), time.Hour, nil},
		"further than the season": {history(monday, 4*day, 5*time.Minute, demand), monday.Add(4 * day), 25 * time.Hour,
			[]time.Duration{day}},
		"all alike": {history(monday, 4*day, 5*time.Minute, flat), monday.Add(4 * day), time.Hour,
			[]time.Duration{day}},
		"always zero": {history(monday, 4*day, 5*time.Minute, func(time.Time) float64 {
			return 0
		}), monday.Add(4 * day), time.Hour, []time.Duration{day}},
		"never measured": {history(monday, 4*day, 5*time.Minute, func(time.Time) float64 {
			return math.NaN()
		}), monday.Add(4 * day), time.Hour, []time.Duration{day}},
		"a random walk": {func() History {
			v := 100.0
			return history(monday, 6*day, 5*time.Minute, func(time.Time) float64 {
				v = max(1, v+noise.NormFloat64())
				return v
			})
		}(), monday.Add(6 * day), 10 * time.Minute, []time.Duration{day}},
	} {
		got, ok := c.h.Forecast(c.now, c.ahead, c.seasons...)
		require.False(t, ok, "%s: %v", name, got)
	}
}

func TestForecastProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.Float64Range(0, 1000), rapid.Just(0.0), rapid.Just(math.NaN()),
			rapid.Float64Range(0, 1e300))
		values := rapid.SliceOfN(value, 0, 200).Draw(t, "values")
		h := History{Start: monday, Step: time.Minute, Values: values}
		kept := slices.Clone(values)
		now := monday.Add(time.Duration(len(values)) * time.Minute).Add(
			time.Duration(rapid.IntRange(-300, 300).Draw(t, "late")) * time.Second)
		ahead := time.Duration(rapid.IntRange(-1, 30).Draw(t, "ahead")) * time.Minute
		season := time.Duration(rapid.IntRange(0, 60).Draw(t, "season")) * time.Minute
		got, ok := h.Forecast(now, ahead, season, 17*time.Minute)
		again, _ := h.Forecast(now, ahead, season, 17*time.Minute)
		require.Equal(t, got, again)
		for i := range kept {
			require.True(t, kept[i] == values[i] || math.IsNaN(kept[i]), "its argument is left alone")
		}
		most := 0.0
		for _, v := range values {
			if v > most {
				most = v
			}
		}
		require.True(t, got >= 0 && got <= most, "%v of at most %v", got, most)
		require.True(t, ok || got == 0)
	})
}

// Whatever the forecast, the size is never below what it is without, and within the bounds.
func TestForecastOnlyAdds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{Min: rapid.IntRange(0, 3).Draw(t, "min"), Max: 20,
			Metrics: []Metric{{Name: "a", Target: 10}, {Name: "b", Target: 5, Kind: PerInstance}},
			Up:      Direction{Stabilize: time.Duration(rapid.IntRange(0, 60).Draw(t, "up")) * time.Second}}
		with, without := State{Current: rapid.IntRange(0, 20).Draw(t, "size")}, State{}
		without.Current = with.Current
		number := rapid.OneOf(rapid.Float64Range(0, 400), rapid.Just(math.NaN()), rapid.Just(math.Inf(1)),
			rapid.Just(-1.0), rapid.Just(math.MaxFloat64))
		now := monday
		for range rapid.IntRange(1, 20).Draw(t, "looks") {
			samples := []Sample{{Metric: "a", Value: number.Draw(t, "a")}, {Metric: "b", Value: number.Draw(t, "b")}}
			plain := Desired(without, p, samples, now)
			for i := range samples {
				samples[i].Forecast = number.Draw(t, "forecast")
			}
			d := Desired(without, p, samples, now)
			require.GreaterOrEqual(t, d.To, plain.To, "%+v", samples)
			require.LessOrEqual(t, d.To, p.Max)
			without, now = plain.State, now.Add(15*time.Second)
		}
	})
}

func TestHistory(t *testing.T) {
	h := History{Step: time.Minute}
	h.Add(monday.Add(10*time.Second), 1, 5)
	h.Add(monday.Add(20*time.Second), 3, 5)
	require.Empty(t, h.Values)
	h.Add(monday.Add(time.Minute), 10, 5)
	h.Add(monday.Add(50*time.Second), 99, 5) // that step is over
	h.Add(monday.Add(time.Minute), math.NaN(), 5)
	h.Add(monday.Add(4*time.Minute), 7, 5)
	require.Equal(t, "[2 10 NaN NaN]", fmt.Sprint(h.Values))
	h.Add(monday.Add(7*time.Minute), 8, 5)
	require.Equal(t, "[NaN NaN 7 NaN NaN]", fmt.Sprint(h.Values))
	require.Equal(t, monday.Add(2*time.Minute), h.Start)
	h.Add(monday.Add(-time.Hour), 8, 5)
	require.Len(t, h.Values, 5, "a clock that jumped back")
	h.Add(monday.Add(30*day), 8, 5)
	require.Empty(t, h.Values, "all of it is long ago")
	require.Equal(t, monday.Add(30*day), h.Start)
}

// A working week, looked at every 15 s, with instances that take 8 minutes to be of use. After two days the tier grows
// before the morning does.
func TestPredictionGrowsBeforeTheRise(t *testing.T) {
	const boot, target = 8 * time.Minute, 10.0
	week := func(predict bool) (short time.Duration, hours float64, atEight int) {
		p := Policy{Min: 2, Max: 200, Metrics: []Metric{{Name: "requests", Target: target}}}
		s := State{Current: 20}
		h := History{Step: 5 * time.Minute}
		type start struct {
			at time.Time
			n  int
		}
		var starting []start
		useful, forecast := 20, 0.0
		for now := monday; now.Before(monday.Add(5 * day)); now = now.Add(15 * time.Second) {
			for len(starting) > 0 && !now.Before(starting[0].at) {
				useful += starting[0].n
				starting = starting[1:]
			}
			sample := Sample{Metric: "requests", Value: demand(now)}
			h.Add(now, sample.Value, 4032)
			if predict {
				if now.Sub(monday)%time.Minute == 0 {
					forecast, _ = h.Forecast(now, 15*time.Minute, day)
				}
				sample.Forecast = forecast
			}
			d := Desired(s, p, []Sample{sample}, now)
			s = d.State
			if grown := d.To - d.From; grown > 0 {
				starting = append(starting, start{now.Add(boot), grown})
			} else if grown < 0 {
				for gone := -grown; gone > 0; { // those that are not of use yet go first
					if n := len(starting); n > 0 {
						take := min(gone, starting[n-1].n)
						starting[n-1].n -= take
						gone -= take
						if starting[n-1].n == 0 {
							starting = starting[:n-1]
						}
						continue
					}
					useful -= gone
					gone = 0
				}
			}
			if now.Before(monday.Add(3 * day)) {
				continue // it has seen two days, and one in which it was used
			}
			if float64(useful)*target*1.1 < demand(now) {
				short += 15 * time.Second
			}
			hours += float64(d.To) / 240
			if now.Sub(now.Truncate(day)) == 8*time.Hour {
				atEight = useful
			}
		}
		return short, hours, atEight
	}
	short, hours, before := week(false)
	pshort, phours, pbefore := week(true)
	t.Logf("Thursday and Friday: too few instances for %v without a forecast, %v with; %.0f and %.0f instance hours; of use at eight: %d and %d",
		short, pshort, hours, phours, before, pbefore)
	require.Greater(t, short, 30*time.Minute)
	require.Less(t, pshort, short/5)
	require.Less(t, phours, hours*1.15)
	require.Greater(t, pbefore, before)
}

func TestControllerPredicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		friday := monday.Add(4 * day)
		time.Sleep(time.Until(friday)) // the bubble begins on the first of January 2000
		size := 10
		var asked Sample
		p := Policy{Min: 2, Max: 200, Metrics: []Metric{{Name: "requests", Target: 10},
			{Name: "cpu", Kind: PerInstance, Target: 0.5}}}
		stored := map[string]History{"requests": history(monday, 4*day, 5*time.Minute, demand)}
		c, err := New(Funcs{
			Get: func(context.Context) (int, error) { return size, nil },
			Set: func(_ context.Context, n int) error { size = n; return nil },
		}, p, func(context.Context) ([]Sample, error) {
			asked = Sample{Metric: "requests", Value: demand(time.Now())}
			return []Sample{asked, {Metric: "cpu", Value: 0.1 * float64(size) / 2, Reported: size / 2}}, nil
		}, Options{Predict: &Prediction{Ahead: 30 * time.Minute, Histories: stored}, Interval: time.Minute})
		require.NoError(t, err)
		grew := time.Duration(0)
		for now := time.Duration(0); now < 8*time.Hour; now += time.Minute {
			d, err := c.Look(t.Context())
			require.NoError(t, err)
			if grew == 0 && d.To > 20 {
				grew = now
				require.Equal(t, "requests", d.Metric)
				require.Contains(t, d.Reason, "forecast")
			}
			time.Sleep(time.Minute)
		}
		require.Greater(t, grew, 7*time.Hour+20*time.Minute)
		require.Less(t, grew, 8*time.Hour-20*time.Minute, "before the rise")
		require.NotZero(t, c.Stats().Early)
		past := c.Histories()
		require.Len(t, past["requests"].Values, (4*24+8)*12-1)
		require.InEpsilon(t, 0.1*10, past["cpu"].Values[0], 0.5, "of all instances, though half of them reported")
		require.Len(t, stored["requests"].Values, 4*24*12, "what was passed in stays as it was")
	})
}

func TestPredictionOptions(t *testing.T) {
	f := Funcs{Get: func(context.Context) (int, error) {
		return 0, nil
	}, Set: func(context.Context, int) error { return nil }}
	p := Policy{Max: 1, Metrics: []Metric{{Name: "a", Target: 1}}}
	for want, o := range map[string]Prediction{
		"Ahead": {Ahead: -1}, "Step": {Step: time.Millisecond}, "Keep": {Keep: time.Minute},
		"Seasons[0]":     {Seasons: []time.Duration{time.Minute}},
		"Seasons[1]":     {Seasons: []time.Duration{day, 20 * day}},
		`Histories["b"]`: {Histories: map[string]History{"b": {Step: time.Minute}}},
		`Histories["a"]`: {Histories: map[string]History{"a": {}}},
	} {
		_, err := New(f, p, func(context.Context) ([]Sample, error) { return nil, nil }, Options{Predict: &o})
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, want)
	}
}

func BenchmarkForecast(b *testing.B) {
	h := history(monday, 28*day, 5*time.Minute, demand)
	for b.Loop() {
		if _, ok := h.Forecast(monday.Add(28*day), 10*time.Minute, day, 7*day); !ok {
			b.Fatal("no forecast")
		}
	}
}
