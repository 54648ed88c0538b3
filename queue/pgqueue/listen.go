package pgqueue

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierkit/tierkit/internal/backoff"
)

// channel is what the processes of one queue notify each other on. The payload is a topic.
func (d *driver) channel() string { return strings.ReplaceAll(d.o.Table, ".", "_") + "_news" }

// announce has the consumers of a topic told, in all processes. It does not wait.
func (d *driver) announce(topic string) {
	d.mu.Lock()
	d.told[topic] = true
	d.mu.Unlock()
	select {
	case d.tell <- struct{}{}:
	default:
	}
}

// notify sends what was announced, many topics at once when publishers are faster.
func (d *driver) notify() {
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.tell:
		}
		d.mu.Lock()
		topics := slices.Collect(maps.Keys(d.told))
		clear(d.told)
		d.mu.Unlock()
		for _, t := range topics { // this process at once
			d.wakeTopic(t)
		}
		for i, t := range topics {
			if len(t) > 4000 { // more than a notification can carry: all look
				topics[i] = "*"
			}
		}
		// lost ones are what Poll is for
		_, _ = d.pool.Exec(d.ctx, `select pg_notify($1, t) from unnest($2::text[]) t`, d.channel(), topics)
	}
}

func (d *driver) wakeTopic(topic string) {
	d.mu.Lock()
	var gs []*group
	for _, g := range d.groups {
		if g.topic == topic || topic == "*" {
			gs = append(gs, g)
		}
	}
	d.mu.Unlock()
	for _, g := range gs {
		g.wake()
	}
}

// listen hears the other processes, and comes back when the server does.
func (d *driver) listen() {
	wait := backoff.Policy{Base: 100 * time.Millisecond, Max: 5 * time.Second}
	for attempt := 0; d.ctx.Err() == nil; attempt++ {
		conn, err := pgx.ConnectConfig(d.ctx, d.pool.Config().ConnConfig)
		if err == nil {
			if _, err = conn.Exec(d.ctx, `listen `+pgx.Identifier{d.channel()}.Sanitize()); err == nil {
				attempt = 0
				d.wakeTopic("*") // what happened while nobody listened
			}
			for err == nil {
				n, werr := conn.WaitForNotification(d.ctx)
				if err = werr; err == nil {
					d.wakeTopic(n.Payload)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = conn.Close(ctx)
			cancel()
		}
		_ = backoff.Sleep(d.ctx, wait.Delay(attempt))
	}
}

// sweep forgets old message IDs, and looks how far the groups are behind, for Stats.
func (d *driver) sweep() {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-t.C:
		}
		if d.o.DedupeWindow > 0 {
			_, _ = d.pool.Exec(d.ctx, d.sql.forget, d.o.DedupeWindow) // the next time will do
		}
		d.mu.Lock()
		gs := slices.Collect(maps.Values(d.groups))
		d.mu.Unlock()
		for _, g := range gs {
			if l, err := g.Lag(d.ctx); err == nil {
				d.mu.Lock()
				g.last = l
				d.mu.Unlock()
			}
		}
	}
}
