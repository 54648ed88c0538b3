package natspurge_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/tierkit/tierkit/cdn"
	"github.com/tierkit/tierkit/cdn/natspurge"
)

// A purge at one edge purges all.
func Example() {
	nc, err := nats.Connect("nats://127.0.0.1:4222")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	cache, err := cdn.New(cdn.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()
	bus, err := natspurge.Join(nc, cache, natspurge.Options{Edges: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bus.Close()
	fmt.Println(bus.Purge(context.Background(), cdn.Match{Tag: "product-7"}))
}
