package pgqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierkit/tierkit/queue"
)

// sender is a pool, a connection or a transaction.
type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

func (d *driver) Publish(ctx context.Context, msgs []queue.Message, receipts []queue.Receipt) error {
	if d.ctx.Err() != nil {
		return fmt.Errorf("publish: %w", queue.ErrClosed)
	}
	return d.publish(ctx, d.pool, msgs, receipts)
}

// publish stores messages in one round trip: locks, then the rows. The locks are held until the transaction ends. A
// topic's is shared, so that the creation of a group, which takes it alone, sees either a message or is seen by it. A
// key's puts the publishers of the key in a row, so that the order of numbers is the order of commits: else a consumer
// might have a later one in its hands when an earlier one appears.
func (d *driver) publish(ctx context.Context, to sender, msgs []queue.Message, receipts []queue.Receipt) error {
	var rows struct {
		topics, kinds, ids, keys, dedupe, headers []string
		priorities                                []int16
		notBefore                                 []*time.Time
		ttls                                      []int64
		bodies                                    [][]byte
	}
	var topicLocks, keyLocks []int64
	var kept []int // the messages behind the rows: the second of an ID in one batch has none
	type name struct{ topic, id string }
	first := map[name]bool{}
	for i := range msgs {
		m := &msgs[i]
		if size := len(m.Body) + len(m.Topic) + len(m.Kind) + len(m.ID) + len(m.Key); size > d.caps.MaxMessage {
			return fmt.Errorf("%w: %d bytes, the limit is %d", queue.ErrTooLarge, size, d.caps.MaxMessage)
		}
		for _, s := range [...]string{m.Topic, m.Kind, m.ID, m.Key} {
			if !storable(s) {
				return fmt.Errorf("pgqueue: a message's Topic, Kind, ID or Key %q is not text that PostgreSQL can store", s)
			}
		}
		header, err := headerText(m.Header)
		if err != nil {
			return err
		}
		receipts[i] = queue.Receipt{Duplicate: true} // until the server says otherwise
		dedupe := ""
		if m.ID != "" && d.o.DedupeWindow > 0 {
			k := name{m.Topic, m.ID}
			if first[k] {
				continue
			}
			first[k], dedupe = true, m.ID
		}
		ttl, body := m.TTL.Microseconds(), m.Body
		if m.TTL > 0 && ttl == 0 {
			ttl = 1
		}
		if body == nil {
			body = []byte{}
		}
		var notBefore *time.Time
		if !m.NotBefore.IsZero() {
			notBefore = &m.NotBefore
		}
		rows.topics, rows.kinds, rows.ids, rows.keys = append(rows.topics, m.Topic), append(rows.kinds, m.Kind),
			append(rows.ids, m.ID), append(rows.keys, m.Key)
		rows.dedupe, rows.headers, rows.priorities = append(rows.dedupe, dedupe), append(rows.headers, header),
			append(rows.priorities, int16(m.Priority))
		rows.notBefore, rows.ttls, rows.bodies = append(rows.notBefore, notBefore), append(rows.ttls, ttl),
			append(rows.bodies, body)
		kept = append(kept, i)
		topicLocks = append(topicLocks, d.lockOf("topic", m.Topic))
		if m.Key != "" {
			keyLocks = append(keyLocks, d.lockOf("key", m.Topic+"\x00"+m.Key))
		}
	}
	slices.Sort(topicLocks) // one order, or two publishers might wait for one another
	slices.Sort(keyLocks)
	b := &pgx.Batch{}
	b.Queue(d.sql.lockTopic, slices.Compact(topicLocks))
	if len(keyLocks) > 0 {
		b.Queue(d.sql.lockKeys, slices.Compact(keyLocks))
	}
	b.Queue(d.sql.publish, rows.topics, rows.kinds, rows.ids, rows.keys, rows.priorities, rows.notBefore, rows.ttls,
		rows.headers, rows.bodies, rows.dedupe,
		max(d.o.DedupeWindow, 0), time.Now())
	res := to.SendBatch(ctx, b)
	for range b.Len() - 1 {
		if _, err := res.Exec(); err != nil {
			return errors.Join(wrap("publish", err), res.Close())
		}
	}
	answer, err := res.Query()
	if err != nil {
		return errors.Join(wrap("publish", err), res.Close())
	}
	stored := 0
	for answer.Next() {
		var ord, seq int64
		if err := answer.Scan(&ord, &seq); err != nil {
			return errors.Join(wrap("publish", err), res.Close())
		}
		receipts[kept[ord-1]] = queue.Receipt{Seq: uint64(seq)}
		stored++
	}
	if err := errors.Join(answer.Err(), res.Close()); err != nil { // the commit is in Close
		return wrap("publish", err)
	}
	d.published.Add(int64(stored))
	d.duplicates.Add(int64(len(msgs) - stored))
	for _, t := range slices.Compact(rows.topics) {
		d.announce(t)
	}
	return nil
}

// Enqueue publishes messages in a transaction of the caller's, on the same database: they appear when it commits, and
// not at all when it does not. q must come from Open. Consumers of other processes notice them within Options.Poll.
func Enqueue(ctx context.Context, q *queue.Queue, tx pgx.Tx, msgs ...queue.Message) ([]queue.Receipt, error) {
	d, ok := q.Driver().(*driver)
	if !ok {
		return nil, errors.New("pgqueue: Enqueue with a queue of another engine")
	}
	receipts := make([]queue.Receipt, len(msgs))
	if len(msgs) == 0 {
		return receipts, nil
	}
	return receipts, d.publish(ctx, tx, msgs, receipts)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("pgqueue: %s: %w", what, err)
}
