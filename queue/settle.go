package queue

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

func (d *logGroup) Settle(ctx context.Context, ds []*Delivery, s Settlement) (errs []error, err error) {
	e, g := d.e, d.g
	e.state.Lock()
	e.expire(g, e.mono())
	held := make([]ref, 0, len(ds))
	for i, x := range ds {
		token, _ := x.Token.(uint64)
		l := g.leases[x.Seq]
		if l == nil || l.token != token {
			if errs == nil {
				errs = make([]error, len(ds))
			}
			errs[i] = fmt.Errorf("message %d: %w", x.Seq, ErrLeaseLost)
			continue
		}
		if !l.named {
			l.named = true
			held = append(held, l.r)
		}
	}
	for _, r := range held {
		g.leases[r.seq].named = false
	}
	var w *waiter
	if len(held) > 0 {
		w, err = e.settle(g, held, s)
	}
	e.state.Unlock()
	if err != nil || w == nil {
		return errs, err
	}
	return errs, w.wait(ctx)
}

// settle writes the verdict and applies it; e.state is held. Nothing is applied when the log cannot take it.
func (e *engine) settle(g *groupState, held []ref, s Settlement) (w *waiter, err error) {
	seqs := func(b []byte) []byte { return appendSeqs(b, g.id, held) }
	switch s.Verdict {
	case Ack:
		if w, err = e.note(kindDone, s.Wait, seqs); err != nil {
			return nil, err
		}
		for _, r := range held {
			g.unlease(g.leases[r.seq])
			e.gone(g, r)
		}
		e.stats.acked.Add(int64(len(held)))
	case Release:
		if w, err = e.note(kindRelease, s.Wait, seqs); err != nil {
			return nil, err
		}
		for _, r := range held {
			g.unlease(g.leases[r.seq])
			r.attempts--
			now := time.Now().UnixNano()
			if s.Delay > 0 {
				e.noteUntil(g, r.seq, after(now, s.Delay))
			}
			g.back(r, after(now, s.Delay), now)
		}
	case Extend:
		by := s.Delay
		if by <= 0 {
			by = g.o.Lease
		}
		deadline := after(e.mono(), by)
		for _, r := range held {
			g.extend(g.leases[r.seq], deadline)
		}
	case Nack, Term:
		for _, r := range held {
			g.unlease(g.leases[r.seq])
			if s.Verdict == Term || g.exhausted(r.attempts) {
				reason := s.Reason
				if reason == "" {
					reason = "max deliveries"
				}
				if w, err = e.bury(g, r, reason, s.Wait); err != nil { // of many, waiting for the last will do
					return nil, err
				}
				continue
			}
			delay := s.Delay
			if delay < 0 {
				delay = g.o.Backoff.Delay(int(r.attempts))
			}
			now := time.Now().UnixNano()
			if delay > 0 {
				e.noteUntil(g, r.seq, after(now, delay))
			}
			e.stats.retried.Add(1)
			g.back(r, after(now, delay), now)
		}
	}
	return w, nil
}

// noteUntil writes down until when a message is delayed; e.state is held. Without it a crash would only shorten the
// delay.
func (e *engine) noteUntil(g *groupState, seq uint64, until int64) {
	_, _ = e.note(kindNack, false, func(b []byte) []byte {
		b = binary.AppendUvarint(b, uint64(g.id))
		b = binary.AppendUvarint(b, seq)
		return binary.AppendUvarint(b, uint64(until))
	})
}
