package queue

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Errors that a caller can act on. All are wrapped with the package's name.
var (
	// ErrClosed: the queue, group or pool was closed.
	ErrClosed = errors.New("queue: closed")
	// ErrLocked: another process (or another Queue of this one) has the directory open.
	ErrLocked = errors.New("queue: directory is in use")
	// ErrLeaseLost: the lease ended, or the message was settled already; whoever holds it now decides.
	ErrLeaseLost = errors.New("queue: lease lost")
	// ErrTooLarge: the message is larger than the queue takes.
	ErrTooLarge = errors.New("queue: message too large")
	// ErrFull: a limit of Options is reached and Options.Block is false.
	ErrFull = errors.New("queue: full")
	// ErrCorrupt: bytes on disk fail their checksum.
	ErrCorrupt = errors.New("queue: corrupt data")
	// ErrFailed: an earlier write or fsync failed. What the disk holds is unknown until the queue is opened again, so
	// every write is refused from then on (a failed fsync must not be retried: the kernel has dropped the pages).
	ErrFailed = errors.New("queue: log has failed, reopen it")
	// ErrUnsupported: the engine cannot do what was asked; see [Caps].
	ErrUnsupported = errors.New("queue: not supported by this engine")
	// ErrDrop, wrapped or returned by a handler, ends the message at once: it becomes a dead letter without retries.
	ErrDrop = errors.New("queue: do not retry")
)

// Message is what a producer hands in. Only Body or Kind need be set.
type Message struct {
	// Topic names the stream of messages that groups consume; "" is a topic like any other.
	Topic string
	// Kind chooses the handler in a [Mux].
	Kind string
	// ID, when set, is published once per [Options.DedupeWindow] and topic; a repetition is answered with
	// Receipt.Duplicate and stores nothing.
	ID string
	// Key, when set, makes messages of the same key and topic be delivered one after the other, in the order of
	// publishing: the next one waits until the one before is settled. Other keys go on.
	Key string
	// Priority 0 (normal) to 9 (first). One fetch in eight takes the oldest message whatever its priority, so that
	// none starves.
	Priority uint8
	// NotBefore delays the first delivery; the zero time does not.
	NotBefore time.Time
	// TTL drops the message when it was not delivered in time, counted from publishing; 0 keeps it for ever. One that
	// was delivered in time, or is redriven, is not dropped any more.
	TTL time.Duration
	// Header travels with the message: trace context, content type.
	Header map[string]string
	// Body is not interpreted. The queue does not keep the slice after Publish returns.
	Body []byte
}

// Receipt answers a published message.
type Receipt struct {
	// Seq is the message's number in the engine, ascending in the order of publishing.
	Seq uint64
	// Duplicate says that a message with this ID is in the queue, durably, already (Seq is then 0 or that message's).
	Duplicate bool
}

// Delivery is one message handed out under a lease. It belongs to the receiver until the lease ends. Its methods may be
// called from any goroutine.
type Delivery struct {
	Message
	// Seq is the number that Publish returned.
	Seq uint64
	// Attempt counts deliveries of this message in this group, from 1.
	Attempt int
	// Published is the producer's clock at publishing.
	Published time.Time
	// Deadline is when the lease ended when the message was fetched; Extend moves the end, not this field.
	Deadline time.Time
	// Token is the engine's proof of the lease; engines set it, consumers pass it on.
	Token any

	group   *Group
	settled atomic.Bool
	gate    *atomic.Bool // set when the worker that holds it was killed
}

// Ack settles the message: it is never delivered again in this group. It returns when that is durable.
// Errors: ErrLeaseLost, ErrFailed, ErrClosed.
func (d *Delivery) Ack(ctx context.Context) error {
	return d.group.settleOne(ctx, d, Settlement{Verdict: Ack, Wait: true})
}

// Nack gives the message back, to be delivered again after delay; a negative delay takes the group's backoff for this
// attempt. When the attempts are used up the message becomes a dead letter.
func (d *Delivery) Nack(ctx context.Context, delay time.Duration) error {
	return d.group.settleOne(ctx, d, Settlement{Verdict: Nack, Delay: delay})
}

// Term makes the message a dead letter at once, with the reason kept beside it.
func (d *Delivery) Term(ctx context.Context, reason string) error {
	return d.group.settleOne(ctx, d, Settlement{Verdict: Term, Reason: reason, Wait: true})
}

// Release gives the message back unstarted: at once, and without using up an attempt.
func (d *Delivery) Release(ctx context.Context) error {
	return d.group.settleOne(ctx, d, Settlement{Verdict: Release})
}

// Extend makes the lease end no sooner than by from now; 0 means the group's lease again.
func (d *Delivery) Extend(ctx context.Context, by time.Duration) error {
	return d.group.settleOne(ctx, d, Settlement{Verdict: Extend, Delay: by})
}

// Waiting is a message as Peek shows it.
type Waiting struct {
	Message
	Seq      uint64
	Attempts int // deliveries so far
	// State is "ready", "delayed", "behind" (another of its key) or "in flight", and ends in " (damaged on disk)" if
	// the message could not be read.
	State string
	// Until is when a delayed one is due, and when the lease of one in flight ends; else the zero time.
	Until     time.Time
	Published time.Time
}

// DeadLetter is a message that was given up.
type DeadLetter struct {
	Message
	Seq      uint64
	Attempts int
	// Reason is the text of Term, "max deliveries", or the last handler's error. It ends in " (damaged on disk)" if the
	// message could not be read.
	Reason    string
	Published time.Time
	Died      time.Time
}
