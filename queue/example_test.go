package queue_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/tierkit/tierkit/queue"
)

// temporary returns a queue in a directory that is removed at the end.
func temporary() (*queue.Queue, func()) {
	dir, err := os.MkdirTemp("", "queue")
	if err != nil {
		log.Fatal(err)
	}
	q, err := queue.Open(dir, queue.Options{SegmentBytes: 1 << 20})
	if err != nil {
		log.Fatal(err)
	}
	return q, func() { q.Close(); os.RemoveAll(dir) }
}

func Example() {
	ctx := context.Background()
	q, end := temporary()
	defer end()
	type resize struct{ Photo string }
	group, err := q.Group(ctx, "photos", "resizers", queue.GroupOptions{})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan string)
	mux := queue.NewMux()
	queue.Handle(mux, "resize", func(ctx context.Context, job *queue.Job[resize]) error {
		done <- job.Data.Photo
		return nil
	})
	pool, err := queue.NewPool(group, mux, queue.PoolOptions{Workers: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if _, err := queue.Send(ctx, q, queue.Message{Topic: "photos", Kind: "resize"}, resize{"cat.jpg"}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-done)
	// Output: cat.jpg
}

// A message with an ID is stored once.
func ExampleQueue_Publish_dedupe() {
	ctx := context.Background()
	q, end := temporary()
	defer end()
	for range 2 {
		r, err := q.Publish(ctx, queue.Message{Topic: "mail", ID: "order-17", Body: []byte("thank you")})
		fmt.Println(r.Duplicate, err)
	}
	// Output:
	// false <nil>
	// true <nil>
}

// Without a pool: fetch, work, and settle.
func ExampleGroup_Fetch() {
	ctx := context.Background()
	q, end := temporary()
	defer end()
	g, _ := q.Group(ctx, "mail", "senders", queue.GroupOptions{Lease: time.Minute})
	_, _ = q.Publish(ctx, queue.Message{Topic: "mail", Body: []byte("first")})
	_, _ = q.Publish(ctx, queue.Message{Topic: "mail", Priority: 9, Body: []byte("urgent")})
	ds, err := g.Fetch(ctx, 10)
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range ds {
		fmt.Printf("%s, attempt %d\n", d.Body, d.Attempt)
	}
	fmt.Println(g.Ack(ctx, ds...))
	// Output:
	// urgent, attempt 1
	// first, attempt 1
	// <nil>
}

// A message that fails for good becomes a dead letter, and can be given another chance.
func ExampleGroup_Redrive() {
	ctx := context.Background()
	q, end := temporary()
	defer end()
	g, _ := q.Group(ctx, "mail", "senders", queue.GroupOptions{})
	_, _ = q.Publish(ctx, queue.Message{Topic: "mail", Body: []byte("to nobody")})
	ds, _ := g.Fetch(ctx, 1)
	_ = ds[0].Term(ctx, "no such address")
	letters, _ := g.Dead(ctx, 10)
	fmt.Printf("%s: %s\n", letters[0].Body, letters[0].Reason)
	n, _ := g.Redrive(ctx, 10)
	ds, _ = g.Fetch(ctx, 1)
	fmt.Println(n, "again, attempt", ds[0].Attempt)
	// Output:
	// to nobody: no such address
	// 1 again, attempt 1
}

// Messages of one key come one after the other; other keys go on.
func ExampleMessage_key() {
	ctx := context.Background()
	q, end := temporary()
	defer end()
	g, _ := q.Group(ctx, "accounts", "books", queue.GroupOptions{})
	for _, m := range []string{"ada:1", "ada:2", "bob:1"} {
		_, _ = q.Publish(ctx, queue.Message{Topic: "accounts", Key: m[:3], Body: []byte(m)})
	}
	ds, _ := g.Fetch(ctx, 10)
	for _, d := range ds {
		fmt.Println(string(d.Body))
	}
	_ = ds[0].Ack(ctx)
	ds, _ = g.Fetch(ctx, 10)
	fmt.Println(string(ds[0].Body))
	// Output:
	// ada:1
	// bob:1
	// ada:2
}

// A batch handler applies many jobs in one transaction; they are acknowledged together when it returns nil.
func ExampleHandleBatch() {
	ctx := context.Background()
	q, end := temporary()
	defer end()
	type view struct{ Page string }
	for range 100 {
		_, _ = queue.Send(ctx, q, queue.Message{Topic: "views", Kind: "view"}, view{"/"})
	}
	g, _ := q.Group(ctx, "views", "counter", queue.GroupOptions{})
	counted := make(chan int)
	mux := queue.NewMux()
	queue.HandleBatch(mux, "view", queue.BatchOptions{Max: 100},
		func(ctx context.Context, jobs []*queue.Job[view]) error {
			counted <- len(jobs)
			return nil
		})
	pool, err := queue.NewPool(g, mux, queue.PoolOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	fmt.Println(<-counted)
	// Output: 100
}

// An autoscaler looks at the lag and turns the number of workers.
func ExamplePool_SetWorkers() {
	ctx := context.Background()
	q, end := temporary()
	defer end()
	g, _ := q.Group(ctx, "t", "g", queue.GroupOptions{})
	mux := queue.NewMux()
	queue.Handle(mux, "k", func(ctx context.Context, job *queue.Job[string]) error { return errors.New("later") })
	pool, err := queue.NewPool(g, mux, queue.PoolOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if lag, err := pool.Lag(ctx); err == nil && lag.OldestAge < time.Second {
		pool.SetWorkers(3)
	}
	fmt.Println(pool.Workers())
	// Output: 3
}
