package pgqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierkit/tierkit/queue"
)

// group is one consumer group, as this process knows it.
type group struct {
	d           *driver
	id          int32
	topic, name string
	turn        atomic.Uint32

	mu      sync.Mutex // guards what follows
	o       queue.GroupOptions
	changed chan struct{} // closed when something may have become deliverable

	last queue.Lag // as the sweep saw it; guarded by driver.mu
}

func (d *driver) Group(ctx context.Context, topic, name string, o queue.GroupOptions) (queue.GroupDriver, error) {
	if name == "" {
		return nil, errors.New("pgqueue: group name is empty")
	}
	if !storable(topic) || !storable(name) {
		return nil, fmt.Errorf("pgqueue: topic %q or group %q is not text that PostgreSQL can store", topic, name)
	}
	var id int32
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, d.lockOf("topic", topic)); err != nil {
			return err
		}
		var others int
		err := tx.QueryRow(ctx, d.sql.findGroup, topic, name).Scan(&id, &others)
		if err == nil || !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if err := tx.QueryRow(ctx, d.sql.addGroup, topic, name).Scan(&id, &others); err != nil {
			return err
		}
		if others == 0 { // counted before the insert: the topic's first
			_, err = tx.Exec(ctx, d.sql.adopt, id, topic)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, wrap("group", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.groups[id]
	if g == nil {
		g = &group{d: d, id: id, topic: topic, name: name, changed: make(chan struct{})}
		d.groups[id] = g
	}
	g.mu.Lock()
	g.o = o
	g.mu.Unlock()
	return g, nil
}

func (g *group) options() queue.GroupOptions {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.o
}

// wake makes all waiting fetches look.
func (g *group) wake() {
	g.mu.Lock()
	close(g.changed)
	g.changed = make(chan struct{})
	g.mu.Unlock()
}

func (g *group) Fetch(ctx context.Context, max int) ([]*queue.Delivery, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if g.d.ctx.Err() != nil {
			return nil, fmt.Errorf("fetch: %w", queue.ErrClosed)
		}
		g.mu.Lock()
		changed := g.changed
		g.mu.Unlock()
		ds, next, err := g.take(ctx, max)
		if err != nil || len(ds) > 0 {
			return ds, err
		}
		wait := g.d.o.Poll
		if next >= 0 {
			wait = min(wait, next+time.Millisecond)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-g.d.ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// take is one look: what is due becomes ready, what is too old goes, and then up to max are leased. next is the time
// until something will be due, negative when nothing will.
func (g *group) take(ctx context.Context, most int) (ds []*queue.Delivery, next time.Duration, err error) {
	d, o := g.d, g.options()
	fetch := d.sql.fetch
	if g.turn.Add(1)%8 == 0 { // none starves
		fetch = d.sql.fetchOldest
	}
	b := &pgx.Batch{}
	b.Queue(d.sql.bury, g.id, int32(o.MaxDeliveries))
	b.Queue(d.sql.wake, g.id)
	b.Queue(d.sql.drop, g.id)
	b.Queue(fetch, g.id, most, o.Lease)
	b.Queue(d.sql.next, g.id)
	// A fetch that was broken off after the server had done it would leave messages leased to nobody: let it end,
	// within reason.
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	res := d.pool.SendBatch(sctx, b)
	defer func() {
		if cerr := res.Close(); cerr != nil && err == nil {
			ds, err = nil, wrap("fetch", cerr)
		}
	}()
	buried, err := res.Exec()
	if err != nil {
		return nil, 0, wrap("fetch", err)
	}
	var late int64
	if err := res.QueryRow().Scan(&late); err != nil {
		return nil, 0, wrap("fetch", err)
	}
	dropped, err := res.Exec()
	if err != nil {
		return nil, 0, wrap("fetch", err)
	}
	rows, err := res.Query()
	if err != nil {
		return nil, 0, wrap("fetch", err)
	}
	for rows.Next() {
		x := &queue.Delivery{}
		var token, seq int64
		if err := g.message(rows, &x.Message, &seq, &token, &x.Attempt, &x.Deadline, &x.Published); err != nil {
			return nil, 0, wrap("fetch", err)
		}
		x.Seq, x.Token = uint64(seq), token
		ds = append(ds, x)
	}
	if err := rows.Err(); err != nil {
		return nil, 0, wrap("fetch", err)
	}
	sortBySeq(ds)
	var seconds float64
	if err := res.QueryRow().Scan(&seconds); err != nil {
		return nil, 0, wrap("fetch", err)
	}
	d.dead.Add(buried.RowsAffected())
	d.expired.Add(buried.RowsAffected() + late)
	d.ttl.Add(dropped.RowsAffected())
	d.delivered.Add(int64(len(ds)))
	next = time.Duration(seconds * float64(time.Second))
	if seconds == -1 {
		next = -1
	} else {
		next = max(next, 0)
	}
	return ds, next, nil
}
