package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

func TestMain(m *testing.M) {
	if runAsMover() {
		return
	}
	testdb.Main(m)
}

const leaseForTests = 100 * time.Millisecond

var testTables = []Table{{Name: "t", Key: []string{"id"}}, {Name: "u", Key: []string{"a", "b"}, By: []string{"b"}}}

// world is a cluster with writers and readers that keep books.
type world struct {
	t      testing.TB
	p      *testdb.Kind
	d      Dialect
	store  MapStore
	shards []Shard
	c      *Cluster
	keys   []bookKey
	stop   chan struct{}
	wg     sync.WaitGroup
	writes atomic.Int64
	bad    chan string
	// lossy: connections may break. An error then means that it is not known what a write did, and it is read back.
	lossy bool
}

// bookKey is one id with the value that the last acknowledged write gave it; 0 is absent.
type bookKey struct {
	mu    sync.Mutex
	value int64
}

func newWorld(t testing.TB, p *testdb.Kind, shards, slots, keys int) *world {
	return newWorldWith(t, p, Dialect{p.Database}, [3]int{shards, slots, keys})
}

func newWorldWith(t testing.TB, p *testdb.Kind, d Dialect, size [3]int) *world {
	shards, slots, keys := size[0], size[1], size[2]
	w := &world{t: t, p: p, d: d, store: MemoryStore(), keys: make([]bookKey, keys), bad: make(chan string, 100)}
	for i := range shards + 1 { // the last one joins later
		db := p.OpenWithTables(t, fmt.Sprintf("s%d", i))
		w.shards = append(w.shards, Shard{ID: ID(fmt.Sprintf("s%d", i)), DB: db})
	}
	w.c = w.process(slots)
	for id := range w.keys {
		if id%2 == 0 {
			w.write(w.c, id, 1, 0)
		}
	}
	return w
}

// process opens the cluster as another process would.
func (w *world) process(slots int) *Cluster {
	shards := w.shards
	if w.c == nil { // the first one makes the map
		shards = shards[:len(shards)-1]
	}
	c, err := New(context.Background(), w.store, shards,
		Options{Dialect: w.d, Tables: testTables, Slots: slots, Refresh: -1, MapTTL: leaseForTests,
			Retry: 20 * time.Second})
	require.NoError(w.t, err)
	if w.c == nil {
		require.NoError(w.t, c.AddShard(w.shards[len(w.shards)-1]))
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) note(f string, args ...any) {
	select {
	case w.bad <- fmt.Sprintf(f, args...):
	default:
	}
}

// write sets a key to v (0 deletes) in both tables and books it.
func (w *world) write(c *Cluster, id int, v int64, level sql.IsolationLevel) {
	k := &w.keys[id]
	k.mu.Lock()
	defer k.mu.Unlock()
	ctx := context.Background()
	err := c.Tx(ctx, Int(int64(id)), &sql.TxOptions{Isolation: level}, func(tx *Tx) error {
		b := w.p.Bind
		if v == 0 {
			_, err := tx.ExecContext(ctx, b(`delete from t where id = ?`), id)
			if err == nil {
				_, err = tx.ExecContext(ctx, b(`delete from u where a = ? and b = ?`), fmt.Sprint("k", id), id)
			}
			return err
		}
		_, err := tx.ExecContext(ctx, b(`insert into t (id, slot, v, at, note) values (?, ?, ?, ?, ?)
			on conflict (id) do update set v = excluded.v, note = excluded.note`),
			id, int(tx.Slot()), v, time.Now(), `it's "quoted" ü`)
		if err == nil && rand.IntN(10) == 0 {
			time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond) // a long transaction
		}
		if err == nil {
			_, err = tx.ExecContext(ctx, b(`insert into u (a, b, slot, x) values (?, ?, ?, ?)
				on conflict (a, b) do update set x = excluded.x`), fmt.Sprint("k", id), id, int(tx.Slot()),
				[]byte{0, byte(v), 255})
		}
		return err
	})
	if err != nil && w.lossy {
		var got int64
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if err = w.get(c, id, &got, nil); err == nil || time.Now().After(end) {
				break
			}
		}
		if err == nil && (got == v || got == k.value) {
			k.value = got
			return
		}
		err = fmt.Errorf("read back %d, not %d or %d: %w", got, v, k.value, err)
	}
	if err != nil {
		w.note("write %d: %v", id, err)
		return
	}
	k.value = v
	w.writes.Add(1)
}

// read compares a strict read with the books.
func (w *world) read(c *Cluster, id int) {
	k := &w.keys[id]
	k.mu.Lock()
	defer k.mu.Unlock()
	var got int64
	var other int
	err := w.get(c, id, &got, &other)
	if err != nil && w.lossy {
		return
	}
	if err != nil {
		w.note("read %d: %v", id, err)
	} else if got != k.value || got != 0 && other != 1 {
		w.note("read %d: got %d (%d), want %d", id, got, other, k.value)
	}
}

func (w *world) get(c *Cluster, id int, got *int64, other *int) error {
	if other == nil {
		other = new(int)
	}
	return c.Tx(context.Background(), Int(int64(id)), nil, func(tx *Tx) error {
		*got, *other = 0, 0
		err := tx.QueryRow(w.p.Bind(`select v from t where id = ?`), id).Scan(got)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err == nil {
			err = tx.QueryRow(w.p.Bind(`select count(*) from u where b = ? and a = ?`), id,
				fmt.Sprint("k", id)).Scan(other)
		}
		return err
	})
}

// traffic runs writers and readers in two processes with maps of their own.
func (w *world) traffic(writers, readers int) {
	w.stop = make(chan struct{})
	levels := []sql.IsolationLevel{sql.LevelDefault}
	if w.p.Name() != "sqlite" {
		levels = append(levels, sql.LevelDefault, sql.LevelRepeatableRead, sql.LevelSerializable)
	}
	second := w.process(0)
	var version atomic.Int64
	version.Store(1)
	loop := func(f func(c *Cluster)) {
		c := w.c
		if rand.IntN(2) == 0 {
			c = second
		}
		w.wg.Go(func() {
			for {
				select {
				case <-w.stop:
					return
				default:
					f(c)
					w.rest()
				}
			}
		})
	}
	for g := range writers {
		loop(func(c *Cluster) {
			v := version.Add(1)
			if rand.IntN(3) == 0 {
				v = 0
			}
			w.write(c, rand.IntN(len(w.keys)/writers)*writers+g, v, levels[rand.IntN(len(levels))])
		})
	}
	for range readers {
		loop(func(c *Cluster) { w.read(c, rand.IntN(len(w.keys))); time.Sleep(time.Millisecond) })
	}
}

// rest spaces the operations of one client. SQLite's one connection is for the mover too; elsewhere clients write as
// fast as they can in an exhaustive run, and leave the processors to other tests in a quick one.
func (w *world) rest() {
	if w.p.Name() == "sqlite" || !exhaustive.On() {
		time.Sleep(2 * time.Millisecond)
	}
}

func (w *world) quiet() {
	close(w.stop)
	w.wg.Wait()
}

// check compares what is stored, where it must be and nowhere else, with the books.
func (w *world) check() {
	w.t.Helper()
	require.NoError(w.t, w.c.Refresh(context.Background()))
	m := w.c.Map()
	found := map[int64]int64{}
	for _, sh := range w.shards {
		rows, err := sh.DB.Query(`select id, slot, v from t`)
		require.NoError(w.t, err)
		for rows.Next() {
			var id, v int64
			var s Slot
			require.NoError(w.t, rows.Scan(&id, &s, &v))
			if m.Owner(s) != sh.ID {
				w.note("row %d of slot %d is on %s, not on %s", id, s, sh.ID, m.Owner(s))
			}
			if _, twice := found[id]; twice {
				w.note("row %d is there twice", id)
			}
			found[id] = v
		}
		require.NoError(w.t, rows.Err())
		var dirty, others int
		require.NoError(w.t, sh.DB.QueryRow(`select count(*) from tk_dirty`).Scan(&dirty))
		require.NoError(w.t, sh.DB.QueryRow(`select count(*) from u`).Scan(&others))
		if dirty != 0 {
			w.note("%d dirty keys left on %s", dirty, sh.ID)
		}
	}
	for id := range w.keys {
		if found[int64(id)] != w.keys[id].value {
			w.note("key %d: stored %d, acknowledged %d", id, found[int64(id)], w.keys[id].value)
		}
	}
	close(w.bad)
	n := 0
	for msg := range w.bad {
		if n++; n <= 10 {
			w.t.Error(msg)
		}
	}
}

// grow moves a third of the slots to the shard that joined.
func (w *world) plan(ctx context.Context) Plan {
	weights := map[ID]float64{}
	for _, s := range w.shards {
		weights[s.ID] = 1
	}
	p, err := w.c.Plan(ctx, Change{Weights: weights})
	require.NoError(w.t, err)
	return p
}
