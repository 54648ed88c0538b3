package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tierkit/tierkit/queue"
)

// group is a durable pull consumer and its dead letters.
type group struct {
	d           *driver
	topic, name string
	o           queue.GroupOptions
	stream      jetstream.Stream
	consumer    jetstream.Consumer
	dead        jetstream.Stream
	deadSubject string

	mu       sync.Mutex
	released map[uint64]int // deliveries that do not count, by sequence
}

// held is the lease of one delivery: JetStream answers the acknowledgement of a message that was delivered again to
// another consumer as if all were well, so this process refuses by its own clock what comes after the lease.
type held struct {
	msg      jetstream.Msg
	deadline atomic.Int64 // Unix nanoseconds
	done     atomic.Bool
	attempt  int
}

func (d *driver) Group(ctx context.Context, topic, name string, o queue.GroupOptions) (queue.GroupDriver, error) {
	if name == "" {
		return nil, errors.New("jetstream: group name is empty")
	}
	s, err := d.stream(ctx, topic)
	if err != nil {
		return nil, err
	}
	g := &group{d: d, topic: topic, name: name, o: o, stream: s, released: map[uint64]int{}}
	durable := token(name)
	c := jetstream.ConsumerConfig{Durable: durable, AckPolicy: jetstream.AckExplicitPolicy, AckWait: o.Lease,
		MaxDeliver:    -1,
		MaxAckPending: 100_000, DeliverPolicy: jetstream.DeliverNewPolicy}
	if old, err := s.Consumer(ctx, durable); err == nil {
		c.DeliverPolicy = old.CachedInfo().Config.DeliverPolicy
	} else if info, err := s.Info(ctx); err == nil && info.State.Consumers == 0 {
		c.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	if g.consumer, err = s.CreateOrUpdateConsumer(ctx, c); err != nil {
		return nil, fmt.Errorf("jetstream: group %s: %w", name, err)
	}
	g.deadSubject = d.o.Stream + ".dead." + token(topic) + "." + durable
	g.dead, err = d.ensure(ctx, jetstream.StreamConfig{Name: d.o.Stream + "-dead-" + token(topic) + "-" + durable,
		Subjects: []string{g.deadSubject},
		Storage:  jetstream.FileStorage, Replicas: d.o.Replicas, Duplicates: d.o.DedupeWindow})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.groups = append(d.groups, g)
	d.mu.Unlock()
	return g, nil
}

func (g *group) Fetch(ctx context.Context, max int) ([]*queue.Delivery, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		select {
		case <-g.d.stop:
			return nil, fmt.Errorf("jetstream: fetch: %w", queue.ErrClosed)
		default:
		}
		ds, err := g.poll(ctx, max)
		if err != nil || len(ds) > 0 {
			return ds, err
		}
	}
}

// poll asks for what is there, and failing that waits for one message, for a while, so that Close and ctx are seen.
func (g *group) poll(ctx context.Context, max int) ([]*queue.Delivery, error) {
	batch, err := g.consumer.FetchNoWait(max)
	if err != nil {
		return nil, fmt.Errorf("jetstream: fetch: %w", err)
	}
	ds, err := g.take(ctx, batch)
	if err != nil || len(ds) > 0 {
		return ds, err
	}
	wait := 500 * time.Millisecond
	if t, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(t))
	}
	if wait < 2*time.Millisecond {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	fctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if batch, err = g.consumer.Fetch(1, jetstream.FetchContext(fctx)); err != nil {
		// The client looks at the deadline itself, and may find it passed before the context has noticed.
		if end, _ := fctx.Deadline(); fctx.Err() != nil || !time.Now().Before(end) {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("jetstream: fetch: %w", err)
	}
	return g.take(ctx, batch)
}

func (g *group) take(ctx context.Context, batch jetstream.MessageBatch) (ds []*queue.Delivery, err error) {
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			continue
		}
		seq := meta.Sequence.Stream
		g.mu.Lock()
		attempt := int(meta.NumDelivered) - g.released[seq]
		g.mu.Unlock()
		h := &held{msg: m, attempt: attempt}
		deadline := time.Now().Add(g.o.Lease)
		h.deadline.Store(deadline.UnixNano())
		if g.o.MaxDeliveries > 0 && attempt > g.o.MaxDeliveries { // the last lease ended without a word
			h.attempt--
			if err := g.bury(ctx, h, "max deliveries"); err != nil {
				return ds, err
			}
			continue
		}
		ds = append(ds, &queue.Delivery{Message: decode(g.topic, m.Headers(), m.Data()), Seq: seq, Attempt: attempt,
			Published: meta.Timestamp, Deadline: deadline, Token: h})
	}
	g.d.delivered.Add(int64(len(ds)))
	if err := batch.Error(); err != nil && len(ds) == 0 && ctx.Err() == nil && !errors.Is(err, nats.ErrTimeout) &&
		!errors.Is(err, context.DeadlineExceeded) &&
		!errors.Is(err, jetstream.ErrNoMessages) {
		return nil, fmt.Errorf("jetstream: fetch: %w", err)
	}
	return ds, nil
}

// bury stores the dead letter first; the message id makes a repetition harmless.
func (g *group) bury(ctx context.Context, h *held, reason string) error {
	meta, err := h.msg.Metadata()
	if err != nil {
		return err
	}
	m := decode(g.topic, h.msg.Headers(), h.msg.Data())
	out := encode(g.deadSubject, &m)
	if m.ID != "" {
		out.Header.Set("Tierkit-Id", m.ID)
	}
	// The attempt is part of the id, so that a message that dies again after a redrive is stored again.
	out.Header.Set(nats.MsgIdHdr, fmt.Sprintf("%d-%d", meta.Sequence.Stream, meta.NumDelivered))
	out.Header.Set("Tierkit-Seq", strconv.FormatUint(meta.Sequence.Stream, 10))
	out.Header.Set("Tierkit-Attempts", strconv.Itoa(h.attempt))
	out.Header.Set("Tierkit-Reason", reason)
	out.Header.Set("Tierkit-Published", meta.Timestamp.Format(time.RFC3339Nano))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := g.d.js.PublishMsg(ctx, out); err != nil {
		return fmt.Errorf("jetstream: dead letter: %w", err)
	}
	g.d.dead.Add(1)
	g.forget(meta.Sequence.Stream)
	return h.msg.TermWithReason(reason)
}

func (g *group) forget(seq uint64) {
	g.mu.Lock()
	delete(g.released, seq)
	g.mu.Unlock()
}

func (g *group) Settle(ctx context.Context, ds []*queue.Delivery, s queue.Settlement) (errs []error, err error) {
	for i, d := range ds {
		if err := g.settle(ctx, d, s); err != nil {
			if !errors.Is(err, queue.ErrLeaseLost) {
				return nil, err
			}
			if errs == nil {
				errs = make([]error, len(ds))
			}
			errs[i] = err
		}
	}
	return errs, nil
}

func (g *group) settle(ctx context.Context, d *queue.Delivery, s queue.Settlement) error {
	h, ok := d.Token.(*held)
	now := time.Now()
	if !ok || now.UnixNano() >= h.deadline.Load() || h.done.Load() {
		return fmt.Errorf("jetstream: message %d: %w", d.Seq, queue.ErrLeaseLost)
	}
	if s.Verdict == queue.Extend { // the server can only start the same lease again
		if err := h.msg.InProgress(); err != nil {
			return fmt.Errorf("jetstream: extend: %w", err)
		}
		h.deadline.Store(now.Add(g.o.Lease).UnixNano())
		return nil
	}
	if h.done.Swap(true) {
		return fmt.Errorf("jetstream: message %d: %w", d.Seq, queue.ErrLeaseLost)
	}
	if err := g.decide(ctx, d, h, s); err != nil {
		h.done.Store(false) // the lease is still ours: it may be tried again
		return err
	}
	return nil
}

// decide tells the server the verdict.
func (g *group) decide(ctx context.Context, d *queue.Delivery, h *held, s queue.Settlement) error {
	switch s.Verdict {
	case queue.Ack:
		if s.Wait {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			if err := h.msg.DoubleAck(ctx); err != nil {
				return fmt.Errorf("jetstream: ack: %w", err)
			}
		} else if err := h.msg.Ack(); err != nil {
			return fmt.Errorf("jetstream: ack: %w", err)
		}
		g.d.acked.Add(1)
		g.forget(d.Seq)
		return nil
	case queue.Release:
		g.mu.Lock()
		if len(g.released) < 100_000 {
			g.released[d.Seq]++
		}
		g.mu.Unlock()
		if s.Delay > 0 {
			return h.msg.NakWithDelay(s.Delay)
		}
		return h.msg.Nak()
	case queue.Term:
		return g.bury(ctx, h, s.Reason)
	}
	if g.o.MaxDeliveries > 0 && h.attempt >= g.o.MaxDeliveries {
		reason := s.Reason
		if reason == "" {
			reason = "max deliveries"
		}
		return g.bury(ctx, h, reason)
	}
	g.d.retried.Add(1)
	delay := s.Delay
	if delay < 0 {
		delay = g.o.Backoff.Delay(h.attempt)
	}
	if delay == 0 {
		return h.msg.Nak()
	}
	return h.msg.NakWithDelay(delay)
}

func (g *group) Lag(ctx context.Context) (queue.Lag, error) {
	info, err := g.consumer.Info(ctx)
	if err != nil {
		return queue.Lag{}, fmt.Errorf("jetstream: lag: %w", err)
	}
	dead, err := g.dead.Info(ctx)
	if err != nil {
		return queue.Lag{}, fmt.Errorf("jetstream: lag: %w", err)
	}
	l := queue.Lag{Ready: int(info.NumPending), InFlight: info.NumAckPending, Dead: int(dead.State.Msgs)}
	if l.Ready > 0 {
		if m, err := g.stream.GetMsg(ctx, info.Delivered.Stream+1); err == nil {
			l.OldestAge = time.Since(m.Time)
		} else if !notFound(err) {
			return l, fmt.Errorf("jetstream: lag: %w", err)
		}
	}
	return l, nil
}

// each calls f for up to max dead letters, oldest first.
func (g *group) each(ctx context.Context, max int, f func(*jetstream.RawStreamMsg) error) (n int, err error) {
	info, err := g.dead.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("jetstream: dead letters: %w", err)
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && n < max && info.State.Msgs > 0; seq++ {
		m, err := g.dead.GetMsg(ctx, seq)
		if notFound(err) {
			continue
		}
		if err != nil {
			return n, fmt.Errorf("jetstream: dead letters: %w", err)
		}
		if err := f(m); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (g *group) Dead(ctx context.Context, max int) (letters []queue.DeadLetter, err error) {
	_, err = g.each(ctx, max, func(m *jetstream.RawStreamMsg) error {
		l := queue.DeadLetter{Message: decode(g.topic, m.Header, m.Data), Reason: m.Header.Get("Tierkit-Reason"),
			Died: m.Time}
		l.ID = m.Header.Get("Tierkit-Id")
		l.Seq, _ = strconv.ParseUint(m.Header.Get("Tierkit-Seq"), 10, 64)
		l.Attempts, _ = strconv.Atoi(m.Header.Get("Tierkit-Attempts"))
		l.Published, _ = time.Parse(time.RFC3339Nano, m.Header.Get("Tierkit-Published"))
		letters = append(letters, l)
		return nil
	})
	return letters, err
}

// Redrive publishes the dead letter to its topic again; its id keeps a repetition after a crash from delivering it
// twice. Other groups of the topic get it too: JetStream cannot address one consumer.
func (g *group) Redrive(ctx context.Context, max int) (int, error) {
	return g.each(ctx, max, func(m *jetstream.RawStreamMsg) error {
		again := decode(g.topic, m.Header, m.Data)
		again.ID = fmt.Sprintf("redrive-%s-%d", token(g.name), m.Sequence)
		if _, err := g.d.js.PublishMsg(ctx, encode(g.d.subject(g.topic), &again)); err != nil {
			return fmt.Errorf("jetstream: redrive: %w", err)
		}
		return g.dead.DeleteMsg(ctx, m.Sequence)
	})
}

func (g *group) PurgeDead(ctx context.Context, max int) (int, error) {
	return g.each(ctx, max, func(m *jetstream.RawStreamMsg) error { return g.dead.DeleteMsg(ctx, m.Sequence) })
}

// Peek shows messages that were never delivered: the server does not tell which of the others are acknowledged.
func (g *group) Peek(ctx context.Context, max int) (out []queue.Waiting, err error) {
	info, err := g.consumer.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("jetstream: peek: %w", err)
	}
	seq := info.Delivered.Stream + 1
	for n := info.NumPending; n > 0 && len(out) < max; seq++ {
		m, err := g.stream.GetMsg(ctx, seq)
		if notFound(err) { // it was deleted
			if s, serr := g.stream.Info(ctx); serr != nil || seq > s.State.LastSeq {
				return out, serr
			}
			continue
		}
		if err != nil {
			return out, fmt.Errorf("jetstream: peek: %w", err)
		}
		out = append(out, queue.Waiting{Message: decode(g.topic, m.Header, m.Data), Seq: m.Sequence, State: "ready",
			Published: m.Time})
		n--
	}
	return out, nil
}

// Purge takes and acknowledges what was pending when it was called.
func (g *group) Purge(ctx context.Context) (n int, err error) {
	info, err := g.consumer.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("jetstream: purge: %w", err)
	}
	for left := int(info.NumPending); left > 0; {
		batch, err := g.consumer.FetchNoWait(min(left, 500))
		if err != nil {
			return n, fmt.Errorf("jetstream: purge: %w", err)
		}
		got := 0
		for m := range batch.Messages() {
			if err := m.DoubleAck(ctx); err != nil {
				return n, fmt.Errorf("jetstream: purge: %w", err)
			}
			got++
		}
		if n, left = n+got, left-got; got == 0 { // others were faster
			return n, batch.Error()
		}
	}
	return n, nil
}
