package shard

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/hooktest"
	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/shard/internal/testdb"
)

func TestJoinHooks(t *testing.T) { hooktest.JoinsAll(t, JoinHooks) }

// Hooks and Progress hold up neither operations nor moves. The simulated databases stand in for real ones, which a
// bubble cannot wait for.
func TestHooksHoldUpNothing(t *testing.T) {
	for name, use := range map[string]func(h *Hooks, o *MoveOptions, misbehave func()){
		"MapChanged": func(h *Hooks, _ *MoveOptions, misbehave func()) {
			h.MapChanged = func(_, _ *Map) { misbehave() }
		},
		"Phase": func(h *Hooks, _ *MoveOptions, misbehave func()) { h.Phase = func(Progress) { misbehave() } },
		"Refused": func(h *Hooks, _ *MoveOptions, misbehave func()) {
			h.Refused = func(Slot, ID, int) { misbehave() }
		},
		"Progress": func(_ *Hooks, o *MoveOptions, misbehave func()) { o.Progress = func(Progress) { misbehave() } },
	} {
		t.Run(name, func(t *testing.T) {
			hooktest.Prove(t, func(t *testing.T, misbehave func()) hooktest.Subject {
				h, o := &Hooks{}, MoveOptions{}
				use(h, &o, misbehave)
				return subject(t, name, h, o)
			})
		})
	}
}

// subject is a cluster in a bubble that moves all slots to and fro.
func subject(t *testing.T, name string, h *Hooks, o MoveOptions) hooktest.Subject {
	s := &scheduler{off: true} // no turns: time alone decides
	var shards []Shard
	for _, id := range []ID{"a", "b"} {
		db := newSimDB(id, s)
		db.violation, db.gate = t.Errorf, make(chan struct{}, 1)
		shards = append(shards, Shard{ID: id, DB: db.open()})
	}
	c, err := New(t.Context(), MemoryStore(), shards, Options{
		Dialect: Dialect{simDialect{cursor: map[*simDB]int64{}}}, Tables: []Table{{Name: "t", Key: []string{"id"}}},
		Slots: simSlots, Refresh: -1, MapTTL: simLease, Hooks: h, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx := context.WithValue(context.Background(), actorKey{}, "subject")
	move := func(o MoveOptions) error {
		slots := c.Map().Owned("a")
		to := ID("b")
		if len(slots) == 0 {
			slots, to = c.Map().Owned("b"), "a"
		}
		p := Plan{Epoch: c.Map().Epoch()}
		for _, sl := range slots {
			p.Moves = append(p.Moves, SlotMove{sl, c.Map().Owner(sl), to})
		}
		j, err := c.Move(ctx, p, o)
		if errors.Is(err, ErrMoving) {
			return nil
		}
		if err != nil {
			return err
		}
		return j.Wait(ctx)
	}
	refuse := func() error { // the shard's answer is refused once
		n := 0
		return c.Do(ctx, Int(1), func(context.Context, *sql.DB, Slot) error {
			if n++; n == 1 {
				return errSimFenced
			}
			return nil
		})
	}
	ignore := func(error) {}
	return hooktest.Subject{
		Object: c,
		Trigger: func() {
			if name == "Refused" {
				_ = refuse()
			}
			_ = move(o)
		},
		Works: func() error {
			if c.ctx.Err() != nil { // closed from inside
				return nil
			}
			if err := refuse(); err != nil {
				return err
			}
			for end := time.Now().Add(20 * time.Second); c.Map().Moving(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					return errors.New("the move does not end")
				}
			}
			return move(MoveOptions{})
		},
		Methods: map[string]func(){
			"AddShard":  func() { ignore(c.AddShard(Shard{})) },
			"Aggregate": func() { _, err := c.Aggregate(ctx, AggregateQuery{}); ignore(err) },
			"Assign":    func() { _, err := c.Assign(ctx, Int(1), "a"); ignore(err) },
			"DB":        func() { c.DB("a") },
			"Dialect":   func() { c.Dialect() },
			"Do":        func() { ignore(refuse()) },
			"DoMany": func() {
				ignore(c.DoMany(ctx, []Key{Int(1)}, func(context.Context, *sql.DB, []int) error { return nil }))
			},
			"Each":    func() { ignore(c.Each(ctx, func(context.Context, ID, *sql.DB) error { return nil })) },
			"Guard":   func() { ignore(c.Guard(ctx)) },
			"HotKeys": func() { c.HotKeys(1) },
			"Map":     func() { c.Map() },
			"Move":    func() { _, err := c.Move(ctx, Plan{}, MoveOptions{}); ignore(err) },
			"Pin":     func() { _, err := c.Pin(ctx, Int(1), "nowhere", MoveOptions{}); ignore(err) },
			"Plan":    func() { _, err := c.Plan(ctx, Change{}); ignore(err) },
			"Refresh": func() { ignore(c.Refresh(ctx)) },
			"Resume":  func() { _, err := c.Resume(ctx, MoveOptions{}); ignore(err) },
			"Shards":  func() { c.Shards() },
			"Slot":    func() { c.Slot(Int(1)) },
			"Stats":   func() { c.Stats() },
			"Tables":  func() { c.Tables() },
			"Tx":      func() { ignore(c.Tx(ctx, Int(1), nil, func(*Tx) error { return nil })) },
			"Unguarded": func() {
				ignore(c.Unguarded(ctx, "a", func(*sql.Tx) error { return nil }))
			},
		},
		Close: func() {
			_ = c.Close()
			time.Sleep(100 * time.Millisecond) // an operation between two attempts notices it then
			for _, sh := range shards {
				_ = sh.DB.Close()
			}
		},
	}
}

// A function that panics or ends its goroutine on one of ours fails its call, not the process.
func TestPanicsOnOurGoroutines(t *testing.T) {
	c := router(t, 2, Options{})
	var p *usercode.Panic
	err := c.DoMany(t.Context(), []Key{Int(1)}, func(context.Context, *sql.DB, []int) error { panic("boom") })
	require.ErrorAs(t, err, &p)
	w := newWorld(t, testdb.SQLite(t), 2, 64, 40)
	_, err = Scatter(t.Context(), w.c, Query[int]{SQL: `select id from t`,
		Scan: func(*sql.Rows) (int, error) { panic("boom") }})
	require.ErrorAs(t, err, &p)
}

// broken is a store that fails while it is told to.
type broken struct {
	MapStore
	down atomic.Bool
}

func (b *broken) Load(ctx context.Context) (*State, error) {
	if b.down.Load() {
		return nil, errors.New("the store is down")
	}
	return b.MapStore.Load(ctx)
}

// A map that cannot be read is logged once, counted, and reported again when it can.
func TestRefreshErrorsAreHeard(t *testing.T) {
	shards := fakeShards(t, 2)
	synctest.Test(t, func(t *testing.T) {
		store := &broken{MapStore: MemoryStore()}
		var log lines
		c, err := New(t.Context(), store, shards, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		defer c.Close()
		store.down.Store(true)
		time.Sleep(10*time.Second + time.Millisecond)
		st := c.Stats()
		require.EqualValues(t, 10, st.RefreshErrors)
		require.Equal(t, "the store is down", st.LastRefreshError)
		require.WithinDuration(t, time.Now(), st.LastRefreshErrorAt, time.Second)
		require.Equal(t, 1, log.count("cannot be read"))
		store.down.Store(false)
		time.Sleep(2 * time.Second)
		require.Equal(t, 1, log.count("can be read again"))
	})
}

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}
