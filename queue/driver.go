package queue

import (
	"context"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// Driver is an engine under a [Queue]. The embedded log is one ([Open]); queue/jetstream is another. The conformance
// suite queue/queuetest holds every driver to this contract. All methods are safe for concurrent use.
type Driver interface {
	// Publish stores all messages durably before it returns, and fills receipts, which has the same length. On an error
	// nothing is promised about any of them: the caller repeats with the same IDs. It must not keep msgs or their
	// bodies.
	Publish(ctx context.Context, msgs []Message, receipts []Receipt) error
	// Group opens the consumer group, creating it if needed. A new group gets every message of the topic published from
	// then on, and the first group of a topic also those published before it. Options of an existing group are
	// replaced.
	Group(ctx context.Context, topic, name string, o GroupOptions) (GroupDriver, error)
	// Caps says what the engine cannot do. Asking for it must be answered with ErrUnsupported.
	Caps() Caps
	// Stats is cheap and safe at any time.
	Stats() Stats
	// Close releases everything. It is called once.
	Close() error
}

// GroupDriver is one consumer group of an engine.
type GroupDriver interface {
	// Fetch waits until at least one message can be delivered or ctx ends, and returns at most max (>= 1), each with
	// Seq, Attempt, Published, Deadline and Token set. It does not wait to fill the batch.
	Fetch(ctx context.Context, max int) ([]*Delivery, error)
	// Settle applies s to every delivery. errs is nil or has one slot per delivery: ErrLeaseLost for those that this
	// consumer does not hold any more. The error is for the call as a whole.
	Settle(ctx context.Context, ds []*Delivery, s Settlement) (errs []error, err error)
	// Lag is what autoscalers look at.
	Lag(ctx context.Context) (Lag, error)
	// Dead lists up to max dead letters, oldest first.
	Dead(ctx context.Context, max int) ([]DeadLetter, error)
	// Redrive makes up to max dead letters deliverable again with fresh attempts, oldest first, and returns how many.
	Redrive(ctx context.Context, max int) (int, error)
	// Peek shows up to max messages that are not settled and not dead: first those that can be delivered now, in their
	// order, then the others.
	Peek(ctx context.Context, max int) ([]Waiting, error)
	// Purge settles everything that is neither in flight nor dead, and returns how many messages that were.
	Purge(ctx context.Context) (int, error)
	// PurgeDead deletes up to max dead letters for good.
	PurgeDead(ctx context.Context, max int) (int, error)
}

// Verdict says what becomes of a delivery.
type Verdict uint8

const (
	Ack     Verdict = iota // done
	Nack                   // again, after Delay
	Term                   // dead letter, because of Reason
	Release                // again, after Delay, attempt not counted
	Extend                 // lease goes on for Delay
)

// Settlement is a verdict with its particulars.
type Settlement struct {
	Verdict Verdict
	// Delay: for Nack and Release until the next delivery (negative, for Nack: the group's backoff), for Extend the new
	// lease (0: the group's).
	Delay time.Duration
	// Reason is kept with a dead letter (Term, or Nack of the last attempt).
	Reason string
	// Wait: return only when the verdict is durable. Without it a crash soon after may deliver the message again.
	Wait bool
}

// Caps are the limits of an engine. The zero value can do everything.
type Caps struct {
	NoPriority   bool          // Message.Priority must be 0
	NoKeyOrder   bool          // Message.Key must be empty
	NoTTL        bool          // Message.TTL must be 0
	NoDelay      bool          // Message.NotBefore must be zero
	MaxMessage   int           // bytes of one encoded message, 0: no limit known
	DedupeWindow time.Duration // how long IDs are remembered, 0: not at all
	// Weaker names, in words, any promise of this package that the engine's configuration does not keep ("" if none).
	Weaker string
}

// GroupOptions configure a consumer group. The zero value is good.
type GroupOptions struct {
	// Lease is how long a consumer has for a message before others get it. Default 30 s, minimum 10 ms.
	Lease time.Duration
	// MaxDeliveries is how often a message is delivered before it becomes a dead letter. Default 10, negative: no
	// limit.
	MaxDeliveries int
	// Backoff gives the delay before the next delivery after a failure. Default 1 s doubling to 5 min, full jitter.
	Backoff Backoff
}

// Backoff is a delay that grows with the attempts: a random time between 0 and min(Max, Base * Factor^attempt), so that
// many failures of one cause do not return at once (full jitter: "Exponential Backoff And Jitter", AWS 2015).
type Backoff struct {
	Base     time.Duration // default 1 s
	Max      time.Duration // default 5 min
	Factor   float64       // default 2
	NoJitter bool
}

// Delay is the wait before the delivery that follows the given attempt (from 1).
func (b Backoff) Delay(attempt int) time.Duration {
	p := backoff.Policy{Base: b.Base, Max: b.Max, Factor: b.Factor, NoJitter: b.NoJitter}
	if p.Base == 0 {
		p.Base = time.Second
	}
	if p.Max == 0 {
		p.Max = 5 * time.Minute
	}
	return p.Delay(attempt - 1)
}

// Lag is how far a group is behind.
type Lag struct {
	Ready     int           // deliverable now
	Delayed   int           // waiting for their time, or for another of their key
	InFlight  int           // under lease
	Dead      int           // dead letters
	OldestAge time.Duration // of the oldest deliverable message since it was published
}
