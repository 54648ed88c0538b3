package queue

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Queue publishes messages and opens consumer groups. It is safe for concurrent use.
type Queue struct {
	driver Driver
	closed atomic.Bool
	close  func() error
	one    sync.Pool // *single
}

// single carries one message into a driver without an allocation.
type single struct {
	msg     [1]Message
	receipt [1]Receipt
}

// New returns a queue over an engine; [Open] does that for the embedded one.
func New(d Driver) *Queue {
	q := &Queue{driver: d, one: sync.Pool{New: func() any { return new(single) }}}
	q.close = sync.OnceValue(d.Close)
	return q
}

// Publish stores one message and returns when it is durable. An error means that the outcome is unknown unless it is
// one of ErrFull, ErrTooLarge, ErrUnsupported, ErrClosed or ErrFailed at the time of the call: repeat with the same ID
// to be safe.
func (q *Queue) Publish(ctx context.Context, m Message) (Receipt, error) {
	s := q.one.Get().(*single)
	s.msg[0] = m
	err := q.publish(ctx, s.msg[:], s.receipt[:])
	r := s.receipt[0]
	*s = single{}
	q.one.Put(s)
	return r, err
}

// PublishBatch stores all messages, in order, and returns when all are durable; in the embedded engine they become
// visible together and survive a crash together.
func (q *Queue) PublishBatch(ctx context.Context, msgs []Message) ([]Receipt, error) {
	receipts := make([]Receipt, len(msgs))
	if len(msgs) == 0 {
		return receipts, nil
	}
	err := q.publish(ctx, msgs, receipts)
	return receipts, err
}

func (q *Queue) publish(ctx context.Context, msgs []Message, receipts []Receipt) error {
	if q.closed.Load() {
		return fmt.Errorf("publish: %w", ErrClosed)
	}
	for i := range msgs {
		if msgs[i].Priority > 9 {
			return fmt.Errorf("queue: Message.Priority is %d, must be 0 to 9", msgs[i].Priority)
		}
		if msgs[i].TTL < 0 {
			return fmt.Errorf("queue: Message.TTL is negative")
		}
	}
	return q.driver.Publish(ctx, msgs, receipts)
}

// Group opens a consumer group of a topic, creating it when new. The first group of a topic gets everything published
// to the topic, also before; later ones what is published from then on. Many Group values may stand for the same group.
func (q *Queue) Group(ctx context.Context, topic, name string, o GroupOptions) (*Group, error) {
	if q.closed.Load() {
		return nil, fmt.Errorf("group: %w", ErrClosed)
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d, err := q.driver.Group(ctx, topic, name, o)
	if err != nil {
		return nil, err
	}
	return &Group{driver: d, queue: q, topic: topic, name: name, options: o}, nil
}

// Driver is the engine below, for its own package's functions.
func (q *Queue) Driver() Driver { return q.driver }

// Caps says what the engine cannot do.
func (q *Queue) Caps() Caps { return q.driver.Caps() }

// Stats is cheap and safe at any time.
func (q *Queue) Stats() Stats { return q.driver.Stats() }

// Close ends the queue: waiting fetches and publishes return ErrClosed. Pools should be closed before. Idempotent.
func (q *Queue) Close() error {
	q.closed.Store(true)
	return q.close()
}

// Stats are the counters of a queue since it was opened.
type Stats struct {
	Published    int64 `metric:"published_total,counter,Messages stored"`
	Duplicates   int64 `metric:"duplicates_total,counter,Publishes answered as duplicates"`
	Rejected     int64 `metric:"rejected_total,counter,Publishes refused by a limit or a full disk"`
	Delivered    int64 `metric:"delivered_total,counter,Deliveries, repeated ones included"`
	Acked        int64 `metric:"acked_total,counter,Messages settled"`
	Retried      int64 `metric:"retried_total,counter,Deliveries given back by a consumer"`
	LeaseExpired int64 `metric:"lease_expired_total,counter,Deliveries whose lease ended unsettled"`
	DeadLettered int64 `metric:"dead_lettered_total,counter,Messages given up"`
	TTLExpired   int64 `metric:"ttl_expired_total,counter,Messages dropped because their TTL ended"`
	Quarantined  int64 `metric:"quarantined_total,counter,Damaged places found on disk"`
	Commits      int64 `metric:"commits_total,counter,Group commits (one fdatasync each)"`
	LogBytes     int64 `metric:"log_bytes,gauge,Bytes of log segments on disk"`
	LiveBytes    int64 `metric:"live_bytes,gauge,Bytes of messages not yet settled by every group"`

	Groups []GroupStats
}

// GroupStats is one group's part of [Stats].
type GroupStats struct {
	Topic     string  `label:"topic"`
	Group     string  `label:"group"`
	Ready     int64   `metric:"ready,gauge,Messages deliverable now"`
	Delayed   int64   `metric:"delayed,gauge,Messages waiting for their time or key"`
	InFlight  int64   `metric:"in_flight,gauge,Messages under lease"`
	Dead      int64   `metric:"dead,gauge,Dead letters"`
	OldestAge float64 `metric:"oldest_age_seconds,gauge,Age of the oldest deliverable message"`
}
