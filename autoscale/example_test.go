package autoscale_test

import (
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
