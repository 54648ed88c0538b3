package trace_test

import (
	"context"
	"fmt"

	"github.com/tierkit/tierkit/metrics/trace"
)

func ExampleInject() {
	ctx := trace.With(context.Background(),
		&trace.IDs{Request: "r-1", Trace: "4bf92f3577b34da6a3ce929d0e0e4736"})
	header := map[string]string{} // of a queue message
	trace.Inject(ctx, func(k, v string) { header[k] = v })

	// In the worker:
	ctx = trace.Extract(context.Background(), func(k string) string { return header[k] })
	fmt.Println(trace.From(ctx).Request, trace.From(ctx).Trace)
	// Output: r-1 4bf92f3577b34da6a3ce929d0e0e4736
}
