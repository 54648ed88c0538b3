package queue

import (
	"context"
	"fmt"
	"time"
)

// Group hands out the messages of one topic, each to one consumer at a time. It is safe for concurrent use and needs no
// closing.
type Group struct {
	driver  GroupDriver
	queue   *Queue
	topic   string
	name    string
	options GroupOptions
}

func (o GroupOptions) withDefaults() (GroupOptions, error) {
	switch {
	case o.Lease == 0:
		o.Lease = 30 * time.Second
	case o.Lease < 10*time.Millisecond:
		return o, fmt.Errorf("queue: GroupOptions.Lease is %v, must be at least 10ms", o.Lease)
	}
	if o.MaxDeliveries == 0 {
		o.MaxDeliveries = 10
	}
	b := o.Backoff
	if b.Base < 0 || b.Max < 0 || b.Factor < 0 || b.Factor > 0 && b.Factor < 1 {
		return o, fmt.Errorf("queue: GroupOptions.Backoff has a negative value or a factor below 1")
	}
	return o, nil
}

// Topic and Name are what the group was opened with.
func (g *Group) Topic() string { return g.topic }
func (g *Group) Name() string  { return g.name }

// Lease is how long a fetched message belongs to its consumer.
func (g *Group) Lease() time.Duration { return g.options.Lease }

// Fetch waits for at least one message and returns up to max, without waiting for more. Errors: the context's,
// ErrClosed.
func (g *Group) Fetch(ctx context.Context, max int) ([]*Delivery, error) {
	if max < 1 {
		return nil, fmt.Errorf("queue: Fetch of %d messages", max)
	}
	ds, err := g.driver.Fetch(ctx, max)
	for _, d := range ds {
		d.group = g
	}
	return ds, err
}

// Ack settles many deliveries with one write, and returns when that is durable. ErrLeaseLost means that some (at least
// one) were not held any more; the others are settled.
func (g *Group) Ack(ctx context.Context, ds ...*Delivery) error {
	return g.settle(ctx, ds, Settlement{Verdict: Ack, Wait: true})
}

func (g *Group) settleOne(ctx context.Context, d *Delivery, s Settlement) error {
	return g.settle(ctx, []*Delivery{d}, s)
}

func (g *Group) settle(ctx context.Context, ds []*Delivery, s Settlement) error {
	if len(ds) == 0 {
		return nil
	}
	for _, d := range ds {
		if d.gate != nil && d.gate.Load() {
			return fmt.Errorf("worker was killed: %w", ErrLeaseLost)
		}
	}
	errs, err := g.driver.Settle(ctx, ds, s)
	if err != nil {
		return err
	}
	for i, d := range ds {
		if errs != nil && errs[i] != nil {
			err = errs[i]
		}
		if s.Verdict != Extend {
			d.settled.Store(true)
		}
	}
	return err
}

// Lag says how far the group is behind.
func (g *Group) Lag(ctx context.Context) (Lag, error) { return g.driver.Lag(ctx) }

// Peek shows up to max messages that are not settled and not dead, without taking them: first those that can be
// delivered now, in their order, then the others.
func (g *Group) Peek(ctx context.Context, max int) ([]Waiting, error) { return g.driver.Peek(ctx, max) }

// Purge settles everything that is neither in flight nor dead, without delivering it, and returns how many messages
// that were.
func (g *Group) Purge(ctx context.Context) (int, error) { return g.driver.Purge(ctx) }

// Dead lists up to max dead letters, oldest first.
func (g *Group) Dead(ctx context.Context, max int) ([]DeadLetter, error) {
	return g.driver.Dead(ctx, max)
}

// Redrive gives up to max dead letters a new set of attempts, oldest first, and returns how many.
// A redriven message with a Key goes before the later ones of its key; it waits for one that is in flight.
func (g *Group) Redrive(ctx context.Context, max int) (int, error) { return g.driver.Redrive(ctx, max) }

// PurgeDead deletes up to max dead letters for good, and returns how many.
func (g *Group) PurgeDead(ctx context.Context, max int) (int, error) {
	return g.driver.PurgeDead(ctx, max)
}
