package policy_test

import (
	"context"
	"fmt"

	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/policy"
)

func ExampleConsistentHash() {
	pool, _ := lb.New([]lb.Endpoint{{Addr: "10.0.0.1:80"}, {Addr: "10.0.0.2:80"}, {Addr: "10.0.0.3:80"}},
		lb.Options{Policy: policy.ConsistentHash(0)})
	defer pool.Close()
	key := lb.Key{Hash: lb.HashString("user 42"), Keyed: true}
	first, _ := pool.Pick(context.Background(), key)
	first.Done(lb.Result{})
	again, _ := pool.Pick(context.Background(), key)
	again.Done(lb.Result{})
	fmt.Println(first.Backend() == again.Backend())
	// Output: true
}
