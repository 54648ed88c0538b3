package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// pause is mostly none, sometimes a while, seldom longer than the lease.
func pause(r *rand.Rand) {
	switch r.IntN(24) {
	case 0:
		time.Sleep(time.Duration(r.IntN(800)) * time.Millisecond)
	case 1, 2, 3:
		time.Sleep(time.Duration(r.IntN(40)) * time.Millisecond)
	}
}

func (m *simulation) writer(g int) {
	r := rand.New(rand.NewPCG(m.seed, uint64(g)+100))
	for n := 0; !m.stopped(); n++ {
		ctx := context.WithValue(context.Background(), actorKey{}, fmt.Sprintf("writer%d-%d", g, n))
		c := m.clients[r.IntN(len(m.clients))]
		if r.IntN(2) == 0 {
			// the last two are for raw: a snapshot must be able to stay valid for long
			m.increment(ctx, c, r, r.IntN(simCounters-2))
		} else {
			m.set(ctx, c, r, simCounters+r.IntN((simKeys-simCounters)/simWriters)*simWriters+g, int64(n*simWriters+g+1))
		}
		pause(r)
		time.Sleep(time.Duration(r.IntN(4)) * time.Millisecond)
	}
}

func (m *simulation) increment(ctx context.Context, c *Cluster, r *rand.Rand, id int) {
	err := c.Do(ctx, Int(int64(id)), func(ctx context.Context, db *sql.DB, _ Slot) error {
		pause(r)
		return stmt(ctx, db, func(t *simTx) error {
			_, err := t.update(m.mutant, int64(id), func(v int64) int64 { return v + 1 })
			return err
		})
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.count[id].acked++
	case errors.Is(err, ErrOutcomeUnknown):
		m.count[id].unknown++
	}
}

func (m *simulation) set(ctx context.Context, c *Cluster, r *rand.Rand, id int, v int64) {
	if r.IntN(4) == 0 {
		v = 0
	}
	o := &sql.TxOptions{}
	if r.IntN(3) == 0 {
		o.Isolation = sql.LevelRepeatableRead
	}
	m.mu.Lock()
	m.hist[id] = append(m.hist[id], v)
	m.mu.Unlock()
	err := c.Tx(ctx, Int(int64(id)), o, func(tx *Tx) error {
		pause(r)
		if err := stmt(ctx, tx, func(t *simTx) error {
			return t.put(m.mutant, int64(id), sqldb.Slot(tx.Slot()), v)
		}); err != nil {
			return err
		}
		pause(r)
		return nil
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.hist[id] = m.hist[id][:len(m.hist[id])-1]
	} else {
		m.acked[id] = len(m.hist[id]) - 1
	}
}

// raw writes to a database as a program does that knows of no map: the row guard is all there is. The row of the
// register belongs to one writer, so only counters are written.
func (m *simulation) raw(g int) {
	r := rand.New(rand.NewPCG(m.seed, uint64(g)+300))
	for n := 0; !m.stopped(); n++ {
		ctx := context.WithValue(context.Background(), actorKey{}, fmt.Sprintf("raw%d-%d", g, n))
		db := m.clients[0].DB([]ID{"a", "b", "c"}[r.IntN(3)])
		if db == nil {
			db = m.clients[1].DB("a")
		}
		id := r.IntN(simCounters)
		o := &sql.TxOptions{}
		if r.IntN(2) == 0 {
			o.Isolation = sql.LevelRepeatableRead
		}
		tx, err := db.BeginTx(ctx, o)
		if err != nil {
			m.violation("raw: %v", err)
			return
		}
		_ = stmt(ctx, tx, func(t *simTx) error { t.view(); return nil }) // takes its snapshot
		pause(r)
		found := false
		err = stmt(ctx, tx, func(t *simTx) (err error) {
			found, err = t.update(m.mutant, int64(id), func(v int64) int64 { return v + 1 })
			return err
		})
		pause(r)
		if err == nil && found && tx.Commit() == nil {
			m.mu.Lock()
			m.count[id].acked++
			m.mu.Unlock()
		} else {
			_ = tx.Rollback()
		}
		time.Sleep(time.Duration(r.IntN(40)) * time.Millisecond)
	}
}

func (m *simulation) reader(g int) {
	r := rand.New(rand.NewPCG(m.seed, uint64(g)+200))
	for n := 0; !m.stopped(); n++ {
		ctx := context.WithValue(context.Background(), actorKey{}, fmt.Sprintf("reader%d-%d", g, n))
		c := m.clients[r.IntN(len(m.clients))]
		id := simCounters + r.IntN(simKeys-simCounters)
		m.mu.Lock()
		lo := m.acked[id]
		m.mu.Unlock()
		var v int64
		read := func(t *simTx) error { v = t.view().rows[int64(id)].v; return nil }
		var err error
		how := r.IntN(3)
		switch how {
		case 0:
			err = c.Do(ctx, Int(int64(id)), func(ctx context.Context, db *sql.DB, _ Slot) error {
				pause(r)
				return stmt(ctx, db, read)
			})
		default:
			err = c.Tx(ctx, Int(int64(id)), &sql.TxOptions{ReadOnly: how == 1}, func(tx *Tx) error {
				pause(r)
				return stmt(ctx, tx, read)
			})
		}
		m.mu.Lock()
		m.reads++
		if err == nil && !slices.Contains(m.hist[id][lo:], v) {
			m.bad = append(m.bad, fmt.Sprintf("stale read (%d) of key %d: got %d, possible were %v", how, id, v,
				m.hist[id][lo:]))
		}
		m.mu.Unlock()
		time.Sleep(time.Duration(r.IntN(6)) * time.Millisecond)
	}
}
