package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tierkit/tierkit/internal/usercode"
)

// Query is a question to all shards.
type Query[T any] struct {
	// SQL and Args run on every shard. With Less it must have the matching ORDER BY. Do not put the LIMIT into it: rows
	// in the middle of a move are left out after they are read, so reading stops by itself once enough rows counted.
	SQL  string
	Args []any
	// Scan reads one row. Required.
	Scan func(rows *sql.Rows) (T, error)
	// SlotOf returns the slot of a row, so that rows that a move has copied but not yet handed over, or handed over but
	// not yet cleaned up, are left out. nil: no row is left out, so ask only while no move is in progress.
	SlotOf func(T) Slot
	// Only asks the shards that own one of these slots, as RangeSlots gives them. nil: all. SlotOf is needed with it.
	Only []Slot
	// Less orders the merged result; every shard's rows must come in this order. nil: no order.
	Less func(a, b T) bool
	// Offset and Limit apply to the merged result. A Limit of zero means none.
	Offset, Limit int
	// MaxRows fails with ErrRowCap when one shard returns more. Zero means 100000; negative means no cap.
	MaxRows int
	// Partial accepts the failure of some shards; Result.Failed names them. All failing is still an error.
	Partial bool
}

// Result of a scatter query.
type Result[T any] struct {
	Rows   []T
	Failed map[ID]error // only with Partial
	Epoch  uint64       // of the map that decided ownership
}

// scatterRetries bounds how often a scatter is repeated because slots changed hands meanwhile.
const scatterRetries = 10

// Scatter asks all shards in parallel and merges. It fails with a *PartialError when any shard fails, unless q.Partial.
// When slots changed hands while it ran it is repeated, so that no row is missing or there twice.
func Scatter[T any](ctx context.Context, c *Cluster, q Query[T]) (Result[T], error) {
	if q.Scan == nil {
		return Result[T]{}, fmt.Errorf("shard: Query.Scan is nil")
	}
	if q.Only != nil && q.SlotOf == nil {
		return Result[T]{}, fmt.Errorf("shard: Query.Only without SlotOf")
	}
	if q.Offset < 0 || q.Limit < 0 {
		return Result[T]{}, fmt.Errorf("shard: Query.Offset or Limit is negative")
	}
	if q.MaxRows == 0 {
		q.MaxRows = 100_000
	}
	c.n.scatters.Add(1)
	for try := 0; ; try++ {
		if err := c.Refresh(ctx); err != nil {
			return Result[T]{}, err
		}
		v := c.view.Load()
		res, err := scatterOnce(ctx, c, v, q)
		if e := c.Refresh(ctx); e != nil {
			return Result[T]{}, e
		}
		if now := c.view.Load(); now != v && !now.sameOwners(v.Map) && q.SlotOf != nil {
			if try < scatterRetries {
				continue
			}
			return Result[T]{}, fmt.Errorf("%w: %d times while the query ran", ErrConflict, try+1)
		}
		return res, err
	}
}

func scatterOnce[T any](ctx context.Context, c *Cluster, v *view, q Query[T]) (Result[T], error) {
	asker := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts := make([][]T, len(v.dbs))
	errs := make([]error, len(v.dbs))
	var wg sync.WaitGroup
	var only map[int]bool
	if q.Only != nil {
		only = map[int]bool{}
		for _, s := range q.Only {
			if o, ok := v.ownerIndex(s); ok {
				only[o] = true
			}
		}
	}
	asked := 0
	var stopped atomic.Bool
	for i, sh := range v.dbs {
		if only != nil && !only[i] {
			continue
		}
		asked++
		wg.Go(func() {
			err := usercode.Run(func() (err error) {
				parts[i], err = askShard(ctx, v, i, sh, q)
				return err
			})
			if err != nil && !q.Partial {
				if stopped.Swap(true) && asker.Err() == nil && errors.Is(err, context.Canceled) {
					return // it did not fail, we stopped it
				}
				cancel() // the others' answers are of no use
			}
			errs[i] = err
		})
	}
	wg.Wait()
	failed := map[ID]error{}
	for i, err := range errs {
		if err != nil {
			failed[v.ids[i]] = err
		}
	}
	if len(failed) > 0 && (!q.Partial || len(failed) == asked) {
		return Result[T]{}, &PartialError{Failed: failed}
	}
	res := Result[T]{Epoch: v.Epoch()}
	if len(failed) > 0 {
		res.Failed = failed
	}
	res.Rows = merge(parts, q.Less)
	res.Rows = res.Rows[min(q.Offset, len(res.Rows)):]
	if q.Limit > 0 {
		res.Rows = res.Rows[:min(q.Limit, len(res.Rows))]
	}
	return res, nil
}

func askShard[T any](ctx context.Context, v *view, index int, sh *shardState, q Query[T]) (out []T, err error) {
	rows, err := sh.DB.QueryContext(ctx, q.SQL, q.Args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for n := 0; rows.Next(); n++ {
		if q.MaxRows > 0 && n >= q.MaxRows {
			return nil, fmt.Errorf("%w: %d", ErrRowCap, q.MaxRows)
		}
		t, err := q.Scan(rows)
		if err != nil {
			return nil, err
		}
		if q.SlotOf != nil {
			if o, ok := v.ownerIndex(q.SlotOf(t)); !ok || o != index {
				continue
			}
		}
		out = append(out, t)
		if q.Limit > 0 && len(out) >= q.Offset+q.Limit {
			break
		}
	}
	return out, rows.Err()
}

// merge joins sorted parts; without an order it joins them as they are.
func merge[T any](parts [][]T, less func(a, b T) bool) []T {
	if less == nil {
		return slices.Concat(parts...)
	}
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]T, 0, n)
	for len(out) < n {
		best := -1
		for i, p := range parts {
			if len(p) > 0 && (best < 0 || less(p[0], parts[best][0])) {
				best = i
			}
		}
		out = append(out, parts[best][0])
		parts[best] = parts[best][1:]
	}
	return out
}
