package autoscale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Funcs join the controller to what it scales.
type Funcs struct {
	// Get returns the current size. Required.
	Get func(context.Context) (int, error)
	// Set asks for a size; it may return before the size is reached. Required.
	Set func(context.Context, int) error
	// Broken lists instances that serve nothing and since when (ejected, crashed). Optional.
	Broken func(context.Context) ([]Instance, error)
	// Replace starts a new instance in the place of a broken one. Required with Broken.
	Replace func(ctx context.Context, id string) error
}

// Instance is one that is broken since a time.
type Instance struct {
	ID    string
	Since time.Time
}

// Options tune a Controller. The zero value is ready.
type Options struct {
	// Interval is the time between two looks. Zero means 15 s, as in the HPA.
	Interval time.Duration
	// Timeout bounds each call of a function. Zero means the interval.
	Timeout time.Duration
	// ReplaceAfter is how long an instance may be broken before Replace is called. Zero means 1 min.
	ReplaceAfter time.Duration
	// DryRun decides and logs but never calls Set or Replace.
	DryRun bool
	// Predict sizes the tier for the demand to come as well as for that of now. Nil means not.
	Predict *Prediction
	// Log is how many decisions Decisions keeps. Zero means 128.
	Log int
	// OnDecision is called after each look that changed the size, wanted to, or failed. It must not block.
	OnDecision func(Decision, error)
}

// Stats counts what a controller did.
type Stats struct {
	Size     int    `metric:"instances,gauge,Instances at the last look"`
	Looks    uint64 `metric:"looks_total,counter,Times the metrics were read"`
	Grown    uint64 `metric:"grown_total,counter,Decisions that grew the tier"`
	Early    uint64 `metric:"grown_early_total,counter,Of these for a demand that was still to come"`
	Shrunk   uint64 `metric:"shrunk_total,counter,Decisions that shrank the tier"`
	Replaced uint64 `metric:"replaced_total,counter,Broken instances replaced"`
	Errors   uint64 `metric:"errors_total,counter,Looks that failed; nothing was changed then"`
}

// Controller looks at the metrics in an interval and applies what Desired says. Its methods are safe for concurrent
// use.
type Controller struct {
	f       Funcs
	policy  Policy
	samples func(context.Context) ([]Sample, error)
	o       Options

	look sync.Mutex // one look at a time

	mu    sync.Mutex // guards what follows
	state State
	stats Stats
	log   []Decision
	past  map[string]*History  // demand by metric, when it is predicted
	asked map[string]time.Time // broken instance -> its Since when Replace was called for it
}

// New returns a controller; it does nothing until Run or Look. samples reads the metrics; a metric it leaves out counts
// as missing. Errors are ErrInvalid, naming the field.
func New(f Funcs, p Policy, samples func(context.Context) ([]Sample, error), o Options) (*Controller, error) {
	switch {
	case f.Get == nil || f.Set == nil:
		return nil, fmt.Errorf("%w: Funcs.Get and Funcs.Set are required", ErrInvalid)
	case (f.Broken == nil) != (f.Replace == nil):
		return nil, fmt.Errorf("%w: Funcs.Broken and Funcs.Replace come together", ErrInvalid)
	case samples == nil:
		return nil, fmt.Errorf("%w: samples is nil", ErrInvalid)
	case o.Interval < 0 || o.Timeout < 0 || o.ReplaceAfter < 0 || o.Log < 0:
		return nil, fmt.Errorf("%w: a duration or size in Options is negative", ErrInvalid)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	if o.Interval == 0 {
		o.Interval = 15 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = o.Interval
	}
	if o.ReplaceAfter == 0 {
		o.ReplaceAfter = time.Minute
	}
	if o.Log == 0 {
		o.Log = 128
	}
	c := &Controller{f: f, policy: p, samples: samples, o: o, asked: map[string]time.Time{}}
	if o.Predict != nil {
		predict, err := o.Predict.withDefaults(p)
		if err != nil {
			return nil, err
		}
		c.o.Predict, c.past = &predict, map[string]*History{}
		for _, m := range p.Metrics {
			h := predict.Histories[m.Name].clone()
			if h.Step == 0 {
				h.Step = predict.Step
			}
			c.past[m.Name] = &h
		}
	}
	return c, nil
}

// Run looks in every interval until ctx ends, and returns its error. A look that fails changes nothing and is tried
// again at the next interval.
func (c *Controller) Run(ctx context.Context) error {
	t := time.NewTicker(c.o.Interval)
	defer t.Stop()
	for {
		c.Look(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// Look reads the metrics once and acts. It returns the decision, and an error if the size or the metrics could not be
// read (nothing is changed then) or the new size could not be set.
func (c *Controller) Look(ctx context.Context) (Decision, error) {
	c.look.Lock()
	defer c.look.Unlock()
	d, err := c.decide(ctx)
	if err == nil && d.To != d.From && !c.o.DryRun {
		err = c.call(ctx, func(ctx context.Context) error { return c.f.Set(ctx, d.To) })
	}
	replaced, rerr := c.replace(ctx)
	err = errors.Join(err, rerr)

	c.mu.Lock()
	c.stats.Looks++
	c.stats.Replaced += uint64(replaced)
	if err != nil {
		c.stats.Errors++
	} else if !c.o.DryRun {
		c.state = d.State
		switch {
		case d.To > d.From:
			c.stats.Grown++
			if d.Forecast {
				c.stats.Early++
			}
		case d.To < d.From:
			c.stats.Shrunk++
		}
	} else {
		c.state = d.State
		c.state.Changes = nil // nothing took effect
	}
	if d.To != d.From || err != nil {
		c.log = append(c.log, d)
		c.log = c.log[max(0, len(c.log)-c.o.Log):]
	}
	c.mu.Unlock()
	if c.o.OnDecision != nil && (d.To != d.From || err != nil) {
		c.o.OnDecision(d, err)
	}
	return d, err
}

func (c *Controller) decide(ctx context.Context) (Decision, error) {
	var size int
	var samples []Sample
	err := c.call(ctx, func(ctx context.Context) (err error) { size, err = c.f.Get(ctx); return err })
	if err == nil {
		err = c.call(ctx, func(ctx context.Context) (err error) { samples, err = c.samples(ctx); return err })
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		return Decision{At: now, From: c.state.Current, To: c.state.Current, Reason: err.Error(), State: c.state}, err
	}
	c.state.Current, c.stats.Size = size, size
	if c.past != nil {
		samples = c.predict(samples, size, now)
	}
	return Desired(c.state, c.policy, samples, now), nil
}

// replace asks once for a replacement of each instance that is broken for too long.
func (c *Controller) replace(ctx context.Context) (n int, err error) {
	if c.f.Broken == nil {
		return 0, nil
	}
	var broken []Instance
	if err := c.call(ctx, func(ctx context.Context) (err error) {
		broken, err = c.f.Broken(ctx)
		return err
	}); err != nil {
		return 0, err
	}
	listed := map[string]bool{}
	for _, b := range broken {
		listed[b.ID] = true
		if time.Since(b.Since) < c.o.ReplaceAfter || c.asked[b.ID].Equal(b.Since) || c.o.DryRun {
			continue
		}
		if e := c.call(ctx, func(ctx context.Context) error { return c.f.Replace(ctx, b.ID) }); e != nil {
			err = errors.Join(err, fmt.Errorf("autoscale: replacing %s: %w", b.ID, e))
			continue
		}
		c.asked[b.ID] = b.Since
		n++
	}
	for id := range c.asked {
		if !listed[id] {
			delete(c.asked, id)
		}
	}
	return n, err
}

func (c *Controller) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	return f(ctx)
}

// Decisions returns the latest decisions that changed the size, wanted to, or failed, oldest first.
func (c *Controller) Decisions() []Decision {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Decision(nil), c.log...)
}

// Stats returns counters since the start.
func (c *Controller) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}
