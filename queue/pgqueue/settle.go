package pgqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierkit/tierkit/queue"
)

// sortBySeq restores the order of priority and number, which UPDATE ... RETURNING does not keep.
func sortBySeq(ds []*queue.Delivery) {
	slices.SortFunc(ds, func(a, b *queue.Delivery) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Seq, b.Seq))
	})
}

func (g *group) Settle(ctx context.Context, ds []*queue.Delivery, s queue.Settlement) (errs []error, err error) {
	d, o := g.d, g.options()
	if d.ctx.Err() != nil {
		return nil, fmt.Errorf("settle: %w", queue.ErrClosed)
	}
	seqs, tokens := make([]int64, len(ds)), make([]int64, len(ds))
	for i, x := range ds {
		t, _ := x.Token.(int64)
		seqs[i], tokens[i] = int64(x.Seq), t
	}
	b := &pgx.Batch{}
	if !s.Wait { // the server need not flush for this
		b.Queue(`set local synchronous_commit = off`)
	}
	last := 0
	switch s.Verdict {
	case queue.Ack:
		b.Queue(d.sql.ack, g.id, seqs, tokens)
	case queue.Nack:
		waits, dead := make([]int64, len(ds)), make([]bool, len(ds))
		for i, x := range ds {
			wait := s.Delay
			if wait < 0 {
				wait = o.Backoff.Delay(x.Attempt)
			}
			waits[i] = wait.Microseconds()
			if dead[i] = o.MaxDeliveries > 0 && x.Attempt >= o.MaxDeliveries; dead[i] {
				last++
			}
		}
		reason := s.Reason
		if reason == "" {
			reason = "max deliveries"
		}
		b.Queue(d.sql.nack, g.id, seqs, tokens, waits, dead, short(reason))
	case queue.Term:
		b.Queue(d.sql.term, g.id, seqs, tokens, short(s.Reason))
	case queue.Release:
		b.Queue(d.sql.release, g.id, seqs, tokens, max(s.Delay, 0))
	case queue.Extend:
		by := s.Delay
		if by <= 0 {
			by = o.Lease
		}
		b.Queue(d.sql.extend, g.id, seqs, tokens, by)
	default:
		return nil, fmt.Errorf("pgqueue: verdict %d: %w", s.Verdict, queue.ErrUnsupported)
	}
	res := d.pool.SendBatch(ctx, b)
	if !s.Wait {
		if _, err := res.Exec(); err != nil {
			return nil, errors.Join(wrap("settle", err), res.Close())
		}
	}
	rows, err := res.Query()
	if err != nil {
		return nil, errors.Join(wrap("settle", err), res.Close())
	}
	held := make(map[int64]bool, len(ds))
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, errors.Join(wrap("settle", err), res.Close())
		}
		held[seq] = true
	}
	if err := errors.Join(rows.Err(), res.Close()); err != nil {
		return nil, wrap("settle", err)
	}
	for i := range ds {
		if !held[seqs[i]] {
			if errs == nil {
				errs = make([]error, len(ds))
			}
			errs[i] = queue.ErrLeaseLost
		}
	}
	n := int64(len(held))
	switch s.Verdict {
	case queue.Ack:
		d.acked.Add(n)
	case queue.Nack:
		d.retried.Add(n - min(int64(last), n))
		d.dead.Add(min(int64(last), n))
	case queue.Term:
		d.dead.Add(n)
	}
	if s.Verdict != queue.Extend {
		g.wake() // the next of a key, or the same again
		d.announce(g.topic)
	}
	return errs, nil
}

// short cuts a reason to what is kept.
func short(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	b := make([]rune, 0, len(s))
	for _, r := range s { // also mends what the cut, or the caller, has left broken
		if r != 0 {
			b = append(b, r)
		}
	}
	return string(b)
}

func (g *group) Lag(ctx context.Context) (queue.Lag, error) {
	var l queue.Lag
	var age float64
	if err := g.d.pool.QueryRow(ctx, g.d.sql.lag, g.id).Scan(&l.Ready, &l.Delayed, &l.InFlight, &l.Dead,
		&age); err != nil {
		return l, wrap("lag", err)
	}
	l.OldestAge = max(0, time.Duration(age*float64(time.Second)))
	return l, nil
}

// Redrive: a redriven message goes before the later ones of its key, but waits for one that is in flight.
func (g *group) Redrive(ctx context.Context, max int) (int, error) {
	tag, err := g.d.pool.Exec(ctx, g.d.sql.redrive, g.id, max)
	if err != nil {
		return 0, wrap("redrive", err)
	}
	g.wake()
	g.d.announce(g.topic)
	return int(tag.RowsAffected()), nil
}

func (g *group) PurgeDead(ctx context.Context, max int) (int, error) {
	tag, err := g.d.pool.Exec(ctx, g.d.sql.purge, g.id, max)
	return int(tag.RowsAffected()), wrap("purge", err)
}

func (g *group) Purge(ctx context.Context) (int, error) {
	tag, err := g.d.pool.Exec(ctx, g.d.sql.purgeAll, g.id)
	return int(tag.RowsAffected()), wrap("purge", err)
}
