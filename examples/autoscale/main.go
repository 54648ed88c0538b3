// Autoscale shows a worker tier that sizes itself: a burst of jobs comes, the tier grows, the backlog falls, and the
// tier shrinks again. Then it plays a morning for which the days before let a tier prepare.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/autoscale"
)

// workers is a pool of goroutines of variable size that works off a backlog.
type workers struct {
	backlog atomic.Int64
	stop    []context.CancelFunc
}

func (w *workers) set(n int) {
	for len(w.stop) < n {
		ctx, cancel := context.WithCancel(context.Background())
		w.stop = append(w.stop, cancel)
		go func() {
			for t := time.NewTicker(4 * time.Millisecond); ctx.Err() == nil; <-t.C {
				if w.backlog.Add(-1) < 0 {
					w.backlog.Add(1)
				}
			}
		}()
	}
	for len(w.stop) > n {
		w.stop[len(w.stop)-1]()
		w.stop = w.stop[:len(w.stop)-1]
	}
}

func main() {
	burst := flag.Int64("burst", 2000, "jobs that arrive at once")
	flag.Parse()
	if *burst < 1 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "autoscale: -burst must be at least 1, and no arguments are taken")
		os.Exit(2)
	}
	w := &workers{}
	w.set(1)
	c, err := autoscale.New(autoscale.Funcs{
		Get: func(context.Context) (int, error) { return len(w.stop), nil },
		Set: func(_ context.Context, n int) error { w.set(n); return nil },
	}, autoscale.Policy{
		Min: 1, Max: 16,
		Metrics: []autoscale.Metric{{Name: "backlog", Target: 100}},
		Up:      autoscale.Direction{Rates: []autoscale.Rate{{Count: 4, Period: 200 * time.Millisecond}}},
		Down:    autoscale.Direction{Stabilize: 500 * time.Millisecond},
	}, func(context.Context) ([]autoscale.Sample, error) {
		return []autoscale.Sample{{Metric: "backlog", Value: float64(w.backlog.Load())}}, nil
	}, autoscale.Options{Interval: 100 * time.Millisecond})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Println("   time  backlog  workers")
	start, peak := time.Now(), 0
	for tick := range 80 {
		if tick == 3 {
			w.backlog.Add(*burst)
		}
		d, err := c.Look(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		peak = max(peak, d.To)
		if d.To != d.From || tick%10 == 0 {
			fmt.Printf("%5d ms  %7d  %-16s %d  %s\n", time.Since(start).Milliseconds(), w.backlog.Load(),
				strings.Repeat("#", d.To), d.To, d.Reason)
		}
		if tick > 3 && w.backlog.Load() == 0 && d.To == 1 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(w.stop) != 1 || peak < 2 {
		fmt.Fprintln(os.Stderr, "autoscale: the tier did not come back to one worker")
		os.Exit(1)
	}
	fmt.Printf("grew to %d workers and came back to 1\n", peak)
	morning()
}

// morning plays Thursday from half past seven, with what was measured since Monday and without. Nothing waits: Desired
// and Forecast are pure functions.
func morning() {
	demand := func(at time.Time) float64 { // requests per second: 100 at night, 900 from eight to six
		if at.Hour() >= 8 && at.Hour() < 18 {
			return 900
		}
		return 100
	}
	monday := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	thursday := monday.Add(3*24*time.Hour + 7*time.Hour + 30*time.Minute)
	past := autoscale.History{Start: monday, Step: 5 * time.Minute}
	for at := monday; at.Before(thursday); at = at.Add(past.Step) {
		past.Values = append(past.Values, demand(at))
	}
	policy := autoscale.Policy{Min: 1, Max: 20, Metrics: []autoscale.Metric{{Name: "requests", Target: 100}}}
	now, ahead := autoscale.State{Current: 1}, autoscale.State{Current: 1}
	fmt.Println("\n  time  requests/s  by what is measured  with a forecast for 15 minutes ahead")
	for at := thursday; at.Before(thursday.Add(45 * time.Minute)); at = at.Add(5 * time.Minute) {
		sample := autoscale.Sample{Metric: "requests", Value: demand(at)}
		now = autoscale.Desired(now, policy, []autoscale.Sample{sample}, at).State
		past.Add(at, sample.Value, 4032)
		sample.Forecast, _ = past.Forecast(at, 15*time.Minute, 24*time.Hour)
		ahead = autoscale.Desired(ahead, policy, []autoscale.Sample{sample}, at).State
		fmt.Printf(" %s  %10.0f  %-19s  %s\n", at.Format("15:04"), sample.Value, strings.Repeat("#", now.Current),
			strings.Repeat("#", ahead.Current))
	}
}
