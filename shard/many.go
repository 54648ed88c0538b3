package shard

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/internal/usercode"
)

// DoMany groups the keys by owning shard and runs f once per shard, in parallel. f gets the positions of its keys in
// keys. What a fence refuses is grouped anew and repeated, so f must be safe to repeat for the keys of a refused call.
// The guarantees during a move are Do's. The error is a *PartialError naming the shards that failed.
func (c *Cluster) DoMany(ctx context.Context, keys []Key,
	f func(ctx context.Context, db *sql.DB, idx []int) error) error {
	todo := make([]int, len(keys))
	for i := range todo {
		todo[i] = i
	}
	failed := map[ID]error{}
	deadline := time.Now().Add(c.opts.Retry)
	for n := 0; len(todo) > 0; n++ {
		v, lane := c.enter()
		groups, visits := map[*shardState][]int{}, map[*shardState][]visit{}
		for _, i := range todo {
			sh, s, err := c.route(v, keys[i])
			if err != nil {
				lane.leave()
				return err
			}
			groups[sh], visits[sh] = append(groups[sh], i), append(visits[sh], visit{s, keys[i]})
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		todo = todo[:0:0]
		for sh, idx := range groups {
			wg.Go(func() {
				lease, err := c.arrive(ctx, v, sh, visits[sh])
				if err == nil {
					err = usercode.Run(func() error { return f(ctx, sh.DB, idx) })
				}
				if err == nil {
					err = lease.end(ctx, c, v, sh, visits[sh])
				}
				if err == nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if c.refused(err) && time.Now().Before(deadline) {
					c.n.refused.Add(1)
					todo = append(todo, idx...)
					return
				}
				failed[sh.ID] = err
			})
		}
		wg.Wait()
		lane.leave()
		if len(todo) == 0 {
			break
		}
		if err := c.Refresh(ctx); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		if c.view.Load() == v {
			if err := backoff.Sleep(ctx, retryPolicy.Delay(n)); err != nil {
				return err
			}
		}
	}
	if len(failed) > 0 {
		return &PartialError{Failed: failed}
	}
	return nil
}

// Each runs f on every shard of the map, one after another in the map's order, and stops at the first error. For schema
// migrations see Migrate.
func (c *Cluster) Each(ctx context.Context, f func(ctx context.Context, id ID, db *sql.DB) error) error {
	for _, sh := range c.view.Load().dbs {
		if err := f(ctx, sh.ID, sh.DB); err != nil {
			return fmt.Errorf("shard: %s: %w", sh.ID, err)
		}
	}
	return nil
}
