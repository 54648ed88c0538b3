package autoscale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrRolledBack is returned by Rollout.Run when the new version was not healthy and the old one is back everywhere.
var ErrRolledBack = errors.New("autoscale: rolled back")

// Rollout replaces the instances of a tier by new ones, a few at a time: drain, replace, wait until the new ones are
// healthy and stay so, go on. When they are not, all that was replaced is brought back.
type Rollout struct {
	// Instances to replace, in this order. Required.
	Instances []string
	// Batch is how many are replaced at a time. Zero means 1.
	Batch int
	// Drain takes an instance out of its balancer and returns when its work is done, or when it may be cut off.
	// Optional.
	Drain func(ctx context.Context, id string) error
	// Replace starts the new version in the place of an instance and returns the new one's id. Required.
	Replace func(ctx context.Context, id string) (string, error)
	// Healthy returns nil when a new instance serves. It is asked until then, at most Timeout, and then until Watch is
	// over. Required.
	Healthy func(ctx context.Context, id string) error
	// Gate judges the service as a whole after each batch, such as by its error budget; an error ends the rollout.
	// Optional.
	Gate func(ctx context.Context) error
	// Restore puts the old version back in the place of a new instance, which may never have worked. Without it a
	// failed rollout stays where it is.
	Restore func(ctx context.Context, old, new string) error
	// Timeout bounds draining, replacing, restoring, and waiting for health, of a batch each. Zero means 2 min.
	Timeout time.Duration
	// Watch is how long a new batch must stay healthy before the next one. Zero means 10 s.
	Watch time.Duration
	// Interval is the time between two questions for health. Zero means 1 s.
	Interval time.Duration
	// OnStep is told what happens, for a progress line. It must not block.
	OnStep func(Step)
}

// Step is one thing that a rollout did.
type Step struct {
	Phase string // "drain", "replace", "wait", "watch", "gate", "done", "restore"
	IDs   []string
	Done  int // instances that are replaced for good
	Of    int
}

// Replaced is one instance that was changed.
type Replaced struct{ Old, New string }

// Run replaces all instances and returns those that are, in order. When a batch fails it restores what was replaced,
// newest first, and returns ErrRolledBack and the cause; when restoring fails too, or there is no Restore, the error
// says so and names what is new. When ctx ends it stops before the next batch and returns ctx's error: the rollout can
// go on later with the instances that are left.
func (r Rollout) Run(ctx context.Context) ([]Replaced, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.Batch == 0 {
		r.Batch = 1
	}
	if r.Timeout == 0 {
		r.Timeout = 2 * time.Minute
	}
	if r.Watch == 0 {
		r.Watch = 10 * time.Second
	}
	if r.Interval == 0 {
		r.Interval = time.Second
	}
	var done []Replaced
	for at := 0; at < len(r.Instances); at += r.Batch {
		if err := ctx.Err(); err != nil {
			return done, fmt.Errorf("autoscale: rollout stopped after %d of %d: %w", len(done), len(r.Instances), err)
		}
		ids := r.Instances[at:min(at+r.Batch, len(r.Instances))]
		// A batch is finished though ctx ends: half of one is worse than either version.
		changed, err := r.batch(context.WithoutCancel(ctx), ids, len(done))
		done = append(done, changed...)
		if err != nil {
			return r.back(context.WithoutCancel(ctx), done, err)
		}
		r.step("done", ids, len(done))
	}
	return done, nil
}

func (r *Rollout) check() error {
	seen := map[string]bool{}
	for _, id := range r.Instances {
		if seen[id] {
			return fmt.Errorf("%w: Rollout.Instances has %s twice", ErrInvalid, id)
		}
		seen[id] = true
	}
	switch {
	case len(r.Instances) == 0:
		return fmt.Errorf("%w: Rollout.Instances is empty", ErrInvalid)
	case r.Replace == nil || r.Healthy == nil:
		return fmt.Errorf("%w: Rollout.Replace and Rollout.Healthy are required", ErrInvalid)
	case r.Batch < 0 || r.Timeout < 0 || r.Watch < 0 || r.Interval < 0:
		return fmt.Errorf("%w: a size or duration in Rollout is negative", ErrInvalid)
	}
	return nil
}

func (r *Rollout) step(phase string, ids []string, done int) {
	if r.OnStep != nil {
		r.OnStep(Step{phase, ids, done, len(r.Instances)})
	}
}

// batch replaces some instances at the same time. What it changed is returned also with an error.
func (r *Rollout) batch(ctx context.Context, ids []string, done int) (changed []Replaced, err error) {
	if r.Drain != nil {
		r.step("drain", ids, done)
		if err := r.each(ctx, ids, r.Drain); err != nil {
			return nil, fmt.Errorf("draining: %w", err)
		}
	}
	r.step("replace", ids, done)
	var mu sync.Mutex
	by := map[string]string{}
	err = r.each(ctx, ids, func(ctx context.Context, id string) error {
		n, err := r.Replace(ctx, id)
		mu.Lock()
		defer mu.Unlock()
		if err == nil || n != "" { // a failed start may have left something
			by[id] = n
		}
		return err
	})
	var fresh []string
	for _, id := range ids {
		if n, ok := by[id]; ok {
			changed, fresh = append(changed, Replaced{id, n}), append(fresh, n)
		}
	}
	if err != nil {
		return changed, fmt.Errorf("replacing: %w", err)
	}
	r.step("wait", fresh, done)
	if err := r.each(ctx, fresh, r.becomesHealthy); err != nil {
		return changed, fmt.Errorf("waiting for health: %w", err)
	}
	r.step("watch", fresh, done)
	if err := r.watch(ctx, fresh); err != nil {
		return changed, fmt.Errorf("watching: %w", err)
	}
	if r.Gate != nil {
		r.step("gate", fresh, done)
		if err := r.Gate(ctx); err != nil {
			return changed, fmt.Errorf("gate: %w", err)
		}
	}
	return changed, nil
}

// each calls f for all ids at the same time, bounded by Timeout.
func (r *Rollout) each(ctx context.Context, ids []string, f func(context.Context, string) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			if err := f(ctx, id); err != nil {
				errs[i] = fmt.Errorf("%s: %w", id, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *Rollout) becomesHealthy(ctx context.Context, id string) error {
	for {
		err := r.Healthy(ctx, id)
		if err == nil {
			return nil
		}
		if !wait(ctx, r.Interval) {
			return fmt.Errorf("not healthy in time: %w", err)
		}
	}
}

// watch sees to it that the new instances stay healthy for a while.
func (r *Rollout) watch(ctx context.Context, ids []string) error {
	for end := time.Now().Add(r.Watch); time.Now().Before(end); {
		wait(ctx, min(r.Interval, time.Until(end)))
		if err := r.each(ctx, ids, r.Healthy); err != nil {
			return err
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// back restores the old version, the newest change first.
func (r *Rollout) back(ctx context.Context, changed []Replaced, cause error) ([]Replaced, error) {
	if r.Restore == nil {
		return changed, fmt.Errorf("autoscale: rollout failed, there is no Restore, %d instances stay new: %w",
			len(changed), cause)
	}
	var left []Replaced
	var errs []error
	for i := len(changed) - 1; i >= 0; i-- {
		c := changed[i]
		r.step("restore", []string{c.Old}, i)
		err := r.each(ctx, []string{c.Old}, func(ctx context.Context, _ string) error {
			return r.Restore(ctx, c.Old, c.New)
		})
		if err != nil {
			left, errs = append([]Replaced{c}, left...), append(errs, err)
		}
	}
	if len(errs) > 0 {
		return left, fmt.Errorf("autoscale: rollout failed: %w; and %d instances could not be restored: %w", cause,
			len(left), errors.Join(errs...))
	}
	return nil, fmt.Errorf("%w: %w", ErrRolledBack, cause)
}
