package autoscale_test

import (
	"context"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/autoscale"
)

// Desired is a pure function: a policy can be tried on recorded samples before it runs anything.
func ExampleDesired() {
	policy := autoscale.Policy{Min: 1, Max: 20, Metrics: []autoscale.Metric{{Name: "depth", Target: 100}}}
	state := autoscale.State{Current: 2}
	now := time.Now()
	for _, depth := range []float64{150, 900, 900} {
		d := autoscale.Desired(state, policy, []autoscale.Sample{{Metric: "depth", Value: depth}}, now)
		fmt.Println(d.From, "->", d.To, d.Reason)
		state, now = d.State, now.Add(15*time.Second)
	}
	// Output:
	// 2 -> 2 depth 150 at target 100 an instance
	// 2 -> 6 depth 900 at target 100 an instance; rate limited
	// 6 -> 9 depth 900 at target 100 an instance
}

// Three days of demand that doubles at eight: at a quarter to eight the forecast asks for what eight o'clock will need.
func ExampleHistory_Forecast() {
	monday := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	history := autoscale.History{Start: monday, Step: 15 * time.Minute}
	now := monday.Add(2*24*time.Hour + 7*time.Hour + 45*time.Minute)
	for at := monday; at.Before(now); at = at.Add(history.Step) {
		demand := 300.0
		if at.Hour() >= 8 && at.Hour() < 20 {
			demand = 600
		}
		history.Values = append(history.Values, demand)
	}
	forecast, _ := history.Forecast(now, 30*time.Minute, 24*time.Hour)
	policy := autoscale.Policy{Min: 1, Max: 20, Metrics: []autoscale.Metric{{Name: "requests", Target: 100}}}
	d := autoscale.Desired(autoscale.State{Current: 3}, policy,
		[]autoscale.Sample{{Metric: "requests", Value: 300, Forecast: forecast}}, now)
	fmt.Println(d.From, "->", d.To, d.Reason)
	// Output: 3 -> 6 requests forecast 600 at target 100 an instance
}

// A controller that remembers: instances take 8 minutes to be of use, so they are asked for 15 minutes early.
func ExamplePrediction() {
	size := 2
	c, err := autoscale.New(autoscale.Funcs{
		Get: func(context.Context) (int, error) { return size, nil },
		Set: func(_ context.Context, n int) error { size = n; return nil },
	}, autoscale.Policy{Min: 2, Max: 50, Metrics: []autoscale.Metric{{Name: "requests", Target: 100}}},
		func(context.Context) ([]autoscale.Sample, error) {
			return []autoscale.Sample{{Metric: "requests", Value: 480}}, nil // per second, of all instances
		}, autoscale.Options{Predict: &autoscale.Prediction{Ahead: 15 * time.Minute}})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Look(context.Background()) // Run does this every 15 s
	fmt.Println(size, len(c.Histories()))
	// Output: 5 1
}
