// Package natspurge tells purges to all edges over NATS: each edge joins a [Bus] with its cache, and a purge at any of
// them purges them all.
//
//	bus, err := natspurge.Join(nc, cache, natspurge.Options{})
//	http.Handle("/purge", cdn.PurgeHandler(bus, authorised))
//
// NATS forgets what it could not deliver, so an edge that was cut off has missed purges. When its connection comes back
// it marks all that it has as stale (a soft purge): it asks the origin about each object once, within the cache's
// MaxFills, and serves nothing that may have been purged as fresh.
package natspurge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tierkit/tierkit/cdn"
)

// ErrMissing is returned by [Bus.Purge] when fewer edges answered than there must be.
var ErrMissing = errors.New("natspurge: not all edges have answered")

// Options of a [Bus]. The zero value of every field is a good default.
type Options struct {
	Subject string        // empty: "tierkit.cdn.purge"; the same on all edges of a fleet
	Name    string        // of this edge in errors; empty: the connection's client id
	Edges   int           // how many edges, this one included, must confirm a purge; 0: those that answer within Wait
	Wait    time.Duration // for the edges' answers, unless the context ends before; 0: 1 s
	Timeout time.Duration // of a purge that another edge asks for; 0: 10 s

	KeepOnReconnect bool        // do not mark everything stale after a broken connection: purges may then be missed
	OnError         func(error) // malformed messages, and purges that fail for others; nil: they are only counted
}

// Bus is one edge's place in the fleet. It is a [cdn.Purger]. It is safe for concurrent use.
type Bus struct {
	nc    *nats.Conn
	local cdn.Purger
	o     Options
	sub   *nats.Subscription

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	status  chan nats.Status
	closing sync.Once

	mu    sync.Mutex // guards stats
	stats Stats
}

// Stats of a [Bus].
type Stats struct {
	Sent       uint64 `metric:"purges_sent_total,counter,Purges that were told to the fleet"`
	Received   uint64 `metric:"purges_received_total,counter,Purges that others told"`
	Errors     uint64 `metric:"purge_errors_total,counter,Malformed messages and purges that failed"`
	Reconnects uint64 `metric:"purge_reconnects_total,counter,Times that everything was marked stale because purges may have been missed"`
}

type answer struct {
	Edge   string `json:"edge"`
	Purged int    `json:"purged"`
	Err    string `json:"err,omitempty"`
}

// Join subscribes an edge. local is its cache. The connection stays the caller's.
func Join(nc *nats.Conn, local cdn.Purger, o Options) (*Bus, error) {
	if nc == nil || local == nil {
		return nil, errors.New("natspurge: Join: want a connection and a Purger")
	}
	if o.Edges < 0 || o.Wait < 0 || o.Timeout < 0 {
		return nil, errors.New("natspurge: Options: Edges, Wait and Timeout: want 0 or more")
	}
	if o.Subject == "" {
		o.Subject = "tierkit.cdn.purge"
	}
	if strings.ContainsAny(o.Subject, " *>\t\r\n") {
		return nil, fmt.Errorf("natspurge: Options.Subject %q: want one without blanks and wildcards", o.Subject)
	}
	if o.Wait == 0 {
		o.Wait = time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Name == "" {
		if id, err := nc.GetClientID(); err == nil {
			o.Name = fmt.Sprint("edge ", id)
		}
	}
	b := &Bus{nc: nc, local: local, o: o, status: nc.StatusChanged(nats.CONNECTED, nats.CLOSED)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	var err error
	if b.sub, err = nc.Subscribe(o.Subject, b.receive); err == nil {
		err = nc.Flush() // from here on nothing is missed
	}
	if err != nil {
		nc.RemoveStatusListener(b.status)
		b.cancel()
		return nil, fmt.Errorf("natspurge: %w", err)
	}
	b.running.Go(b.watch)
	return b, nil
}

// receive purges here what some edge, perhaps this one, asks for, and answers. Messages of one subscription come one
// after the other.
func (b *Bus) receive(m *nats.Msg) {
	var match cdn.Match
	if err := json.Unmarshal(m.Data, &match); err != nil {
		b.failed(fmt.Errorf("natspurge: malformed message on %s: %w", m.Subject, err))
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.o.Timeout)
	defer cancel()
	b.count(func(s *Stats) { s.Received++ })
	a := answer{Edge: b.o.Name}
	n, err := b.local.Purge(ctx, match)
	if a.Purged = n; err != nil {
		a.Err = err.Error()
		b.failed(err)
	}
	if m.Reply != "" {
		data, _ := json.Marshal(a) // strings and a number
		if err := m.Respond(data); err != nil {
			b.failed(err)
		}
	}
}

// watch marks everything stale when the connection comes back.
func (b *Bus) watch() {
	for {
		select {
		case <-b.ctx.Done():
			return
		case s, ok := <-b.status:
			if !ok || s == nats.CLOSED {
				return
			}
			if b.o.KeepOnReconnect {
				continue
			}
			b.count(func(s *Stats) { s.Reconnects++ })
			if _, err := b.local.Purge(b.ctx, cdn.Match{All: true, Soft: true}); err != nil && b.ctx.Err() == nil {
				b.failed(err)
			}
		}
	}
}

// Purge purges all edges, this one included, and returns how many objects they had together. It returns when
// Options.Edges have answered, or with 0 of them after Options.Wait.
//
// Errors: [ErrMissing]; what an edge failed with; nats.ErrConnectionReconnecting and the like when nobody can be told.
// This edge is purged in every case.
func (b *Bus) Purge(ctx context.Context, m cdn.Match) (int, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return 0, fmt.Errorf("natspurge: %w", err)
	}
	alone := func(err error) (int, error) {
		n, e := b.local.Purge(ctx, m)
		return n, errors.Join(fmt.Errorf("natspurge: %w", err), e)
	}
	if !b.nc.IsConnected() { // the client would keep the message for later; a purge must be known to have gone out
		return alone(nats.ErrConnectionReconnecting)
	}
	inbox := b.nc.NewRespInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	if err != nil {
		return alone(err)
	}
	defer sub.Unsubscribe()
	if err := b.nc.PublishRequest(b.o.Subject, inbox, data); err != nil {
		return alone(err)
	}
	b.count(func(s *Stats) { s.Sent++ })
	ctx, cancel := context.WithTimeout(ctx, b.o.Wait)
	defer cancel()
	total, seen := 0, map[string]bool{}
	var errs []error
	for b.o.Edges == 0 || len(seen) < b.o.Edges {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			if b.o.Edges == 0 && len(seen) > 0 && errors.Is(err, context.DeadlineExceeded) {
				break
			}
			errs = append(errs, fmt.Errorf("%w: %d of %d: %w", ErrMissing, len(seen), max(b.o.Edges, 1), err))
			break
		}
		var a answer
		if err := json.Unmarshal(msg.Data, &a); err != nil || seen[a.Edge] {
			continue
		}
		seen[a.Edge] = true
		total += a.Purged
		if a.Err != "" {
			errs = append(errs, fmt.Errorf("natspurge: %s: %s", a.Edge, a.Err))
		}
	}
	return total, errors.Join(errs...)
}

func (b *Bus) failed(err error) {
	b.count(func(s *Stats) { s.Errors++ })
	if b.o.OnError != nil {
		b.o.OnError(err)
	}
}

func (b *Bus) count(f func(*Stats)) {
	b.mu.Lock()
	f(&b.stats)
	b.mu.Unlock()
}

// Stats returns the counters.
func (b *Bus) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}

// Close leaves the fleet. It is idempotent; the connection stays open.
func (b *Bus) Close() error {
	b.closing.Do(func() {
		b.sub.Unsubscribe()
		b.cancel()
		b.nc.RemoveStatusListener(b.status)
		b.running.Wait()
	})
	return nil
}
