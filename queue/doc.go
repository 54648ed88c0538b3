// Package queue takes slow work out of requests without losing any of it: a durable queue that lives in one directory
// of the process, or behind the same API in NATS JetStream (queue/jetstream).
//
// [Queue.Publish] returns when the message is on disk. A consumer group hands each message out under a lease; a message
// that is not acknowledged before its lease ends is delivered again (at-least-once), a stale holder's acknowledgement
// is refused ([ErrLeaseLost]), and a message that fails too often moves to the group's dead letters in one atomic step.
//
//	type Resize struct{ Photo string }
//
//	func main() {
//		ctx := context.Background()
//		q, err := queue.Open("./jobs", queue.Options{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer q.Close()
//		group, err := q.Group(ctx, "photos", "resizers", queue.GroupOptions{Lease: 30 * time.Second})
//		if err != nil {
//			log.Fatal(err)
//		}
//		mux := queue.NewMux()
//		queue.Handle(mux, "resize", func(ctx context.Context, job *queue.Job[Resize]) error {
//			return resize(ctx, job.Data.Photo)
//		})
//		pool, err := queue.NewPool(group, mux, queue.PoolOptions{Workers: 4})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer pool.Close()
//		queue.Send(ctx, q, queue.Message{Topic: "photos", Kind: "resize"}, Resize{Photo: "cat.jpg"})
//	}
package queue
