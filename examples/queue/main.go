// Command queue shows a durable queue: jobs survive a crash in mid-job, a failing one becomes a dead letter, and the
// pool of workers grows while it runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/queue"
)

type resize struct {
	Photo string
	Width int
}

func main() {
	jobs := flag.Int("jobs", 2000, "jobs to publish")
	dir := flag.String("dir", "", "directory of the queue (default: a temporary one, removed at the end)")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(),
			"Publishes jobs, kills a worker in mid-job, and shows that all are done.\n\nusage: queue [-jobs N] [-dir DIR]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *jobs < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*dir, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "queue:", err)
		os.Exit(1)
	}
}

func run(dir string, jobs int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if dir == "" {
		tmp, err := os.MkdirTemp("", "tierkit-queue-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	}

	q, err := queue.Open(dir, queue.Options{SegmentBytes: 8 << 20})
	if err != nil {
		return err
	}
	batch := make([]queue.Message, 0, 100)
	start := time.Now()
	for i := range jobs {
		batch = append(batch, queue.Message{Topic: "photos", Kind: "resize", ID: fmt.Sprint("photo-", i),
			Body: fmt.Appendf(nil, `{"Photo":"cat-%d.jpg","Width":320}`, i)})
		if len(batch) == cap(batch) || i == jobs-1 {
			if _, err := q.PublishBatch(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	fmt.Printf("published   %d jobs, each on disk, in %v\n", jobs, time.Since(start).Round(time.Millisecond))
	r, err := q.Publish(ctx, queue.Message{Topic: "photos", Kind: "resize", ID: "photo-0"})
	if err != nil {
		return err
	}
	fmt.Printf("repeated    photo-0: duplicate=%v, nothing stored\n", r.Duplicate)
	if _, err := queue.Send(ctx, q, queue.Message{Topic: "photos", Kind: "resize"},
		resize{Photo: "broken.jpg"}); err != nil {
		return err
	}

	// The program stops here, and starts again.
	if err := q.Close(); err != nil {
		return err
	}
	if q, err = queue.Open(dir, queue.Options{SegmentBytes: 8 << 20}); err != nil {
		return err
	}
	defer q.Close()
	group, err := q.Group(ctx, "photos", "resizers", queue.GroupOptions{Lease: 500 * time.Millisecond, MaxDeliveries: 3,
		Backoff: queue.Backoff{Base: 20 * time.Millisecond}})
	if err != nil {
		return err
	}
	lag, err := group.Lag(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("reopened    %d jobs waiting, the oldest for %v\n", lag.Ready, lag.OldestAge.Round(time.Millisecond))

	var done, second atomic.Int64
	stuck := make(chan string, 1)
	mux := queue.NewMux()
	queue.Handle(mux, "resize", func(ctx context.Context, job *queue.Job[resize]) error {
		switch {
		case job.Data.Photo == "broken.jpg":
			return errors.New("not a JPEG")
		case job.Data.Photo == "cat-7.jpg" && job.Attempt == 1:
			stuck <- job.Data.Photo
			<-ctx.Done() // its worker dies here
			return ctx.Err()
		}
		if job.Attempt > 1 {
			second.Add(1)
		}
		done.Add(1)
		return nil
	})
	pool, err := queue.NewPool(group, mux, queue.PoolOptions{Workers: 1})
	if err != nil {
		return err
	}
	defer pool.Close()
	if jobs > 7 {
		photo := <-stuck
		fmt.Printf("killed      %d worker in the middle of %s\n", pool.Kill(1), photo)
	}
	pool.SetWorkers(4)
	fmt.Printf("grown       to %d workers\n", pool.Workers())
	for {
		if lag, err = group.Lag(ctx); err != nil {
			return err
		}
		if lag.Ready+lag.InFlight+lag.Delayed == 0 {
			break
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Printf("done        %d jobs, %d of them by a second worker after a lease had ended\n", done.Load(),
		second.Load())
	letters, err := group.Dead(ctx, 10)
	if err != nil {
		return err
	}
	for _, l := range letters {
		fmt.Printf("dead letter %s after %d attempts: %s\n", l.Body, l.Attempts, l.Reason)
	}
	s := q.Stats()
	fmt.Printf("engine      %d deliveries, %d leases ended, %d dead letters, %d commits\n", s.Delivered, s.LeaseExpired,
		s.DeadLettered, s.Commits)
	if int(done.Load()) != jobs {
		return fmt.Errorf("%d of %d jobs done", done.Load(), jobs)
	}
	return nil
}
