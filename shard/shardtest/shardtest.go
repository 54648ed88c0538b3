// Package shardtest is the conformance suite of shard.MapStore.
package shardtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard"
)

// MapStore tests a store. open returns, each time, a handle of one and the same empty store, as several processes would
// have.
func MapStore(t *testing.T, open func(t *testing.T) shard.MapStore) {
	ctx := context.Background()
	state := func(epoch uint64) *shard.State {
		st := &shard.State{Epoch: epoch, HashVersion: 1, Slots: 1 << 14, Shards: []shard.ID{"a", "b"},
			Owners: make(shard.Owners, 1<<14), Lease: time.Second,
			Pins: map[string]shard.Slot{"sx": 1 << 14}, PinOwners: map[shard.Slot]uint16{1 << 14: 1},
			Job: &shard.JobState{ID: 7, Phase: shard.PhaseCopy}}
		for i := range st.Owners {
			st.Owners[i] = uint16(i % 2)
		}
		for s := range 6000 { // a large plan fits
			st.Job.Moves = append(st.Job.Moves, shard.SlotMove{Slot: shard.Slot(s), From: "a", To: "b"})
		}
		return st
	}
	a, b := open(t), open(t)
	_, err := a.Load(ctx)
	require.ErrorIs(t, err, shard.ErrNoMap)
	require.ErrorIs(t, a.CompareAndSwap(ctx, 3, state(4)), shard.ErrConflict, "nothing is stored")
	require.NoError(t, a.CompareAndSwap(ctx, 0, state(1)))
	require.ErrorIs(t, b.CompareAndSwap(ctx, 0, state(1)), shard.ErrConflict, "something is stored")
	got, err := b.Load(ctx)
	require.NoError(t, err)
	require.Equal(t, state(1), got)
	require.NoError(t, b.CompareAndSwap(ctx, 1, state(2)))
	require.ErrorIs(t, a.CompareAndSwap(ctx, 1, state(2)), shard.ErrConflict)
	got, err = a.Load(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, got.Epoch)
	if e, ok := a.(interface {
		Epoch(context.Context) (uint64, error)
	}); ok {
		n, err := e.Epoch(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
	}

	told := make(chan struct{}, 1000)
	watching, cancel := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	if w, ok := a.(shard.Watcher); ok {
		watchers.Go(func() { _ = w.Watch(watching, func() { told <- struct{}{} }) })
		defer watchers.Wait()
	}
	defer cancel()

	// Of those who swap the same epoch one wins, and nobody else thinks so.
	const each = 10
	var wins atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		s := a
		if g%2 == 1 {
			s = b
		}
		wg.Go(func() {
			for n := 0; n < each; {
				st, err := s.Load(ctx)
				if err != nil {
					panic(fmt.Sprint("load: ", err))
				}
				next := *st
				next.Epoch++
				if s.CompareAndSwap(ctx, st.Epoch, &next) == nil {
					n++
					wins.Add(1)
				}
			}
		})
	}
	wg.Wait()
	got, err = a.Load(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2+wins.Load(), got.Epoch)
	if _, ok := a.(shard.Watcher); ok {
		select {
		case <-told:
		case <-time.After(30 * time.Second):
			t.Error("the watcher was told nothing")
		}
	}
	dead, stop := context.WithCancel(ctx)
	stop()
	if _, err := a.Load(dead); err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
}
