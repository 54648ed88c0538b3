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

// publish stores messages in one round trip: locks, then the rows. The locks are held until the transaction ends. A topic's is shared, so that the
// creation of a group, which takes it alone, sees either a message or is seen by it. A key's puts the publishers of the key in a row, so that the order
// of numbers is the order of commits: else a consumer might have a later one in its hands when an earlier one appears.
func (d *driver) publish(ctx context.Context, to sender, msgs []queue.Message, receipts []queue.Receipt) error {
	n := len(msgs)
	topics, kinds, ids, keys, dedupe := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	priorities, notBefore, ttls, headers, bodies := make([]int16, n), make([]*time.Time, n), make([]int64, n), make([]string, n), make([][]byte, n)
	var topicLocks, keyLocks []int64
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
		topics[i], kinds[i], ids[i], keys[i], priorities[i], ttls[i], bodies[i] = m.Topic, m.Kind, m.ID, m.Key, int16(m.Priority), m.TTL.Microseconds(), m.Body
		if m.TTL > 0 && ttls[i] == 0 {
			ttls[i] = 1
		}
		if bodies[i] == nil {
			bodies[i] = []byte{}
		}
		if !m.NotBefore.IsZero() {
			notBefore[i] = &m.NotBefore
		}
		var err error
		if headers[i], err = headerText(m.Header); err != nil {
			return err
		}
		if m.ID != "" && d.o.DedupeWindow > 0 {
			if k := (name{m.Topic, m.ID}); first[k] { // a second one in this batch
				topics[i] = ""
				dedupe[i] = " again"
				receipts[i] = queue.Receipt{Duplicate: true}
				continue
			} else {
				first[k], dedupe[i] = true, m.ID
			}
		}
		topicLocks = append(topicLocks, d.lockOf("topic", m.Topic))
		if m.Key != "" {
			keyLocks = append(keyLocks, d.lockOf("key", m.Topic+"\x00"+m.Key))
		}
	}
	keep := make([]int, 0, n)
	for i := range msgs {
		if dedupe[i] != " again" {
			keep = append(keep, i)
		}
	}
	slices.Sort(topicLocks) // one order, or two publishers might wait for one another
	slices.Sort(keyLocks)
	b := &pgx.Batch{}
	b.Queue(d.sql.lockTopic, slices.Compact(topicLocks))
	if len(keyLocks) > 0 {
		b.Queue(d.sql.lockKeys, slices.Compact(keyLocks))
	}
	b.Queue(d.sql.publish, pick(topics, keep), pick(kinds, keep), pick(ids, keep), pick(keys, keep), pick(priorities, keep), pick(notBefore, keep), pick(ttls, keep),
		pick(headers, keep), pick(bodies, keep), pick(dedupe, keep), max(d.o.DedupeWindow, 0), time.Now())
	res := to.SendBatch(ctx, b)
	for range b.Len() - 1 {
		if _, err := res.Exec(); err != nil {
			return errors.Join(wrap("publish", err), res.Close())
		}
	}
	for _, i := range keep {
		receipts[i] = queue.Receipt{Duplicate: true}
	}
	rows, err := res.Query()
	if err != nil {
		return errors.Join(wrap("publish", err), res.Close())
	}
	stored := 0
	for rows.Next() {
		var ord, seq int64
		if err := rows.Scan(&ord, &seq); err != nil {
			return errors.Join(wrap("publish", err), res.Close())
		}
		receipts[keep[ord-1]] = queue.Receipt{Seq: uint64(seq)}
		stored++
	}
	if err := errors.Join(rows.Err(), res.Close()); err != nil { // the commit is in Close
		return wrap("publish", err)
	}
	d.published.Add(int64(stored))
	d.duplicates.Add(int64(n - stored))
	d.mu.Lock()
	for i := range topics {
		d.told[msgs[i].Topic] = true
	}
	d.mu.Unlock()
	select {
	case d.tell <- struct{}{}:
	default:
	}
	return nil
}

func pick[T any](all []T, keep []int) []T {
	if len(all) == len(keep) {
		return all
	}
	out := make([]T, len(keep))
	for i, k := range keep {
		out[i] = all[k]
	}
	return out
}

// Enqueue publishes messages in a transaction of the caller's, on the same database: they appear when it commits, and not at all when it
// does not. q must come from Open. Consumers of other processes notice them within Options.Poll.
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
