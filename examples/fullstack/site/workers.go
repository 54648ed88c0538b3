package site

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tierkit/tierkit/metrics/trace"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/shard"
)

// Worker does the slow work of the site.
type Worker struct {
	Shards *shard.Cluster
	Log    *slog.Logger
	// AckFirst is a defect for the tests of the books: views are acknowledged before they are counted.
	AckFirst bool
	// Counting, when set, is called before a batch is counted; tests and drills hold a worker there.
	Counting func(ctx context.Context)
}

// traced is the header of a message: the worker's log records will carry the ids of the request.
func traced(ctx context.Context) map[string]string {
	h := map[string]string{}
	trace.Inject(ctx, func(k, v string) { h[k] = v })
	return h
}

// continued puts the ids of the request that caused a job into its context; a batch goes under those of its first.
func continued(next queue.HandlerFunc) queue.HandlerFunc {
	return func(ctx context.Context, ds []*queue.Delivery) error {
		return next(trace.Extract(ctx, func(k string) string { return ds[0].Header[k] }), ds)
	}
}

// Views returns the handlers of TopicViews, Photos those of TopicPhotos.
func (wk *Worker) Views() *queue.Mux {
	m := queue.NewMux()
	m.Use(continued)
	queue.HandleBatch(m, "view", queue.BatchOptions{Max: 100},
		func(ctx context.Context, jobs []*queue.Job[View]) error {
			if wk.AckFirst {
				for _, j := range jobs {
					if err := j.Ack(ctx); err != nil {
						return err
					}
				}
			}
			if wk.Counting != nil {
				wk.Counting(ctx)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return wk.count(ctx, jobs)
		})
	return m
}

// count adds the views of a batch to their pages: one transaction per shard in which an event that was counted before
// adds nothing. The batch is acknowledged after the commit, so a death in between only repeats what then adds nothing.
func (wk *Worker) count(ctx context.Context, jobs []*queue.Job[View]) error {
	keys := make([]shard.Key, len(jobs))
	for i, j := range jobs {
		keys[i] = shard.String(j.Data.Path)
	}
	return wk.Shards.DoMany(ctx, keys, func(ctx context.Context, db *sql.DB, idx []int) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		views := map[string]int{}
		for _, i := range idx {
			v := jobs[i].Data
			res, err := tx.ExecContext(ctx, `INSERT INTO events (slot, id) VALUES (?, ?) ON CONFLICT (id) DO NOTHING`,
				int(wk.Shards.Slot(keys[i])), v.ID)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			views[v.Path] += int(n)
		}
		for path, n := range views {
			if n == 0 {
				continue
			}
			if _, err := tx.ExecContext(ctx, `UPDATE pages SET views = views + ? WHERE path = ?`, n, path); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}

// Photos returns the handler that resizes: twice the same input gives the same result, so repeating it is harmless.
func (wk *Worker) Photos() *queue.Mux {
	m := queue.NewMux()
	queue.Handle(m, "resize", func(ctx context.Context, job *queue.Job[string]) error {
		id := job.Data
		var original, thumb []byte
		err := wk.Shards.Do(primary(ctx), shard.String(id), func(ctx context.Context, db *sql.DB, _ shard.Slot) error {
			return db.QueryRowContext(ctx, `SELECT original, thumb FROM photos WHERE id = ?`, id).Scan(&original,
				&thumb)
		})
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: photo %s does not exist", queue.ErrDrop, id)
		}
		if err != nil || thumb != nil {
			return err
		}
		if thumb, err = resize(original); err != nil {
			return fmt.Errorf("%w: photo %s: %w", queue.ErrDrop, id, err)
		}
		return wk.Shards.Do(ctx, shard.String(id), func(ctx context.Context, db *sql.DB, _ shard.Slot) error {
			_, err := db.ExecContext(ctx, `UPDATE photos SET thumb = ? WHERE id = ?`, thumb, id)
			return err
		})
	})
	return m
}
