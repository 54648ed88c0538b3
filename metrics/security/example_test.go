package security_test

import (
	"context"
	"fmt"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/security"
)

func Example() {
	m, err := metrics.New(metrics.Options{NoRuntime: true})
	if err != nil {
		panic(err)
	}
	events, err := security.New(m, security.Options{})
	if err != nil {
		panic(err)
	}
	// events.Report fits the Event hooks of packages session and token.
	events.Report(context.Background(), security.LoginFailed, "ada")
	fmt.Println(events.Counts()[security.LoginFailed], events.Recent()[0].User)
	// Output: 1 ada
}
