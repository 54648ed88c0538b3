// Package jetstream runs package queue on NATS JetStream, when one machine is not enough.
//
// Each topic is a stream, each group a durable pull consumer, and each group's dead letters a stream of their own,
// owned by this package because JetStream leaves a message that has used up its deliveries in the stream for ever. A
// dead letter is stored there, with its stream sequence as Nats-Msg-Id, before the original is terminated: a crash
// between the two steps repeats the first one without effect.
//
// What is weaker than in the embedded log: no priorities, no order by key, no delayed publish and no TTL per message
// (asking for them is ErrUnsupported); a stale acknowledgement is refused by this process's clock, not by the server;
// and unless the server syncs always or the stream has three replicas, an acknowledged message may be lost in a crash
// of the machine (the server's default syncs every two minutes): [queue.Caps.Weaker] then says so.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tierkit/tierkit/queue"
)

// Options configure the engine. The zero value is good.
type Options struct {
	// Stream is the prefix of the streams' names. Default "TIERKIT".
	Stream string
	// Replicas of each stream. Default 1.
	Replicas int
	// DedupeWindow is how long a Message.ID is remembered. Default 5 min.
	DedupeWindow time.Duration
	// SyncAlways says that the servers are configured with sync_interval: always, which a client can not see.
	SyncAlways bool
}

// Open returns a queue on a NATS connection, which it does not close.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*queue.Queue, error) {
	if o.Stream == "" {
		o.Stream = "TIERKIT"
	}
	if strings.ContainsAny(o.Stream, " .*>/\\\t\n") {
		return nil, fmt.Errorf("jetstream: Options.Stream %q has characters that a stream's name cannot have", o.Stream)
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Replicas < 1 || o.Replicas > 5 {
		return nil, fmt.Errorf("jetstream: Options.Replicas is %d, must be 1 to 5", o.Replicas)
	}
	if o.DedupeWindow == 0 {
		o.DedupeWindow = 5 * time.Minute
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	if _, err := js.AccountInfo(ctx); err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return queue.New(&driver{js: js, nc: nc, o: o, streams: map[string]jetstream.Stream{}, stop: make(chan struct{})}),
		nil
}

type driver struct {
	js      jetstream.JetStream
	nc      *nats.Conn
	o       Options
	mu      sync.Mutex // guards streams and groups
	streams map[string]jetstream.Stream
	groups  []*group
	stop    chan struct{}

	published, duplicates, delivered, acked, retried, dead atomic.Int64
}

// token makes any topic or group name a legal part of a stream's name and subject.
func token(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	if b.Len() == 0 {
		return "_"
	}
	return b.String()
}

func (d *driver) subject(topic string) string { return d.o.Stream + ".q." + token(topic) }

// stream returns the topic's stream, creating it.
func (d *driver) stream(ctx context.Context, topic string) (jetstream.Stream, error) {
	return d.ensure(ctx, jetstream.StreamConfig{Name: d.o.Stream + "-q-" + token(topic),
		Subjects:  []string{d.subject(topic)},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: d.o.Replicas,
		Duplicates: d.o.DedupeWindow})
}

func (d *driver) ensure(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	d.mu.Lock()
	s := d.streams[c.Name]
	d.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := d.js.CreateOrUpdateStream(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("jetstream: stream %s: %w", c.Name, err)
	}
	d.mu.Lock()
	d.streams[c.Name] = s
	d.mu.Unlock()
	return s, nil
}

func (d *driver) Caps() queue.Caps {
	c := queue.Caps{NoPriority: true, NoKeyOrder: true, NoTTL: true, NoDelay: true, DedupeWindow: d.o.DedupeWindow,
		MaxMessage: int(d.nc.MaxPayload())}
	if !d.o.SyncAlways && d.o.Replicas < 3 {
		c.Weaker = "fewer than three replicas and no sync_interval: always: a crash of the machine may lose acknowledged messages"
	}
	return c
}

const (
	headerKind   = "Tierkit-Kind"
	headerPrefix = "Tierkit-H-"
)

func (d *driver) Publish(ctx context.Context, msgs []queue.Message, receipts []queue.Receipt) error {
	futures := make([]jetstream.PubAckFuture, len(msgs))
	for i := range msgs {
		m := &msgs[i]
		switch {
		case m.Priority != 0:
			return fmt.Errorf("jetstream: Message.Priority: %w", queue.ErrUnsupported)
		case m.Key != "":
			return fmt.Errorf("jetstream: Message.Key: %w", queue.ErrUnsupported)
		case m.TTL != 0:
			return fmt.Errorf("jetstream: Message.TTL: %w", queue.ErrUnsupported)
		case !m.NotBefore.IsZero():
			return fmt.Errorf("jetstream: Message.NotBefore: %w", queue.ErrUnsupported)
		case len(m.Body) > int(d.nc.MaxPayload()):
			return fmt.Errorf("jetstream: %w", queue.ErrTooLarge)
		}
		if _, err := d.stream(ctx, m.Topic); err != nil {
			return err
		}
	}
	for i := range msgs {
		m := encode(d.subject(msgs[i].Topic), &msgs[i])
		var err error
		if futures[i], err = d.js.PublishMsgAsync(m); err != nil {
			return fmt.Errorf("jetstream: publish: %w", err)
		}
	}
	for i, f := range futures {
		select {
		case ack := <-f.Ok():
			receipts[i] = queue.Receipt{Seq: ack.Sequence, Duplicate: ack.Duplicate}
			if ack.Duplicate {
				d.duplicates.Add(1)
			} else {
				d.published.Add(1)
			}
		case err := <-f.Err():
			return fmt.Errorf("jetstream: publish: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("jetstream: outcome unknown: %w", ctx.Err())
		case <-d.stop:
			return fmt.Errorf("jetstream: publish: %w", queue.ErrClosed)
		}
	}
	return nil
}

func encode(subject string, m *queue.Message) *nats.Msg {
	out := nats.NewMsg(subject)
	out.Data = m.Body
	if m.Kind != "" {
		out.Header.Set(headerKind, m.Kind)
	}
	if m.ID != "" {
		out.Header.Set(nats.MsgIdHdr, m.ID)
	}
	for k, v := range m.Header {
		out.Header[headerPrefix+k] = []string{v}
	}
	return out
}

func decode(topic string, h nats.Header, data []byte) queue.Message {
	m := queue.Message{Topic: topic, Kind: h.Get(headerKind), ID: h.Get(nats.MsgIdHdr), Body: data}
	for k, v := range h {
		if name, ok := strings.CutPrefix(k, headerPrefix); ok && len(v) > 0 {
			if m.Header == nil {
				m.Header = map[string]string{}
			}
			m.Header[name] = v[0]
		}
	}
	return m
}

func (d *driver) Stats() queue.Stats {
	s := queue.Stats{Published: d.published.Load(), Duplicates: d.duplicates.Load(), Delivered: d.delivered.Load(),
		Acked: d.acked.Load(), Retried: d.retried.Load(), DeadLettered: d.dead.Load()}
	d.mu.Lock()
	gs := append([]*group(nil), d.groups...)
	d.mu.Unlock()
	for _, g := range gs {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		l, err := g.Lag(ctx)
		cancel()
		if err == nil {
			s.Groups = append(s.Groups, queue.GroupStats{Topic: g.topic, Group: g.name, Ready: int64(l.Ready),
				Delayed:  int64(l.Delayed),
				InFlight: int64(l.InFlight), Dead: int64(l.Dead), OldestAge: l.OldestAge.Seconds()})
		}
	}
	return s
}

func (d *driver) Close() error {
	close(d.stop)
	d.js.CleanupPublisher()
	return nil
}

// notFound reports whether err says that a message or stream does not exist.
func notFound(err error) bool {
	return errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) ||
		errors.Is(err, jetstream.ErrNoMessages)
}
