// Package shardtest is the conformance suite of shard.MapStore.
package shardtest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard"
)

// state is a State with an epoch, a pin and a large plan, so that a store shows whether it keeps all of one.
func state(t testing.TB, epoch uint64) *shard.State {
	var moves []string
	for s := range 6000 {
		moves = append(moves, fmt.Sprintf(`{"s":%d,"f":"a","t":"b"}`, s))
	}
	owners := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0, 0, 1, 0}, 1<<13)) // a and b in turn
	st := new(shard.State)
	require.NoError(t, json.Unmarshal(fmt.Appendf(nil, `{"epoch":%d,"hash_version":1,"slots":16384,"shards":["a","b"],
		"owners":%q,"pins":{"sx":16384},"pin_owners":{"16384":1},"lease":1000000000,"token":7,
		"job":{"id":7,"token":7,"phase":"copy","moves":[%s]}}`, epoch, owners, strings.Join(moves, ",")), st))
	return st
}

// MapStore tests a store. open returns, each time, a handle of one and the same empty store, as several processes would
// have.
func MapStore(t *testing.T, open func(t *testing.T) shard.MapStore) {
	ctx := context.Background()
	a, b := open(t), open(t)
	_, err := a.Load(ctx)
	require.ErrorIs(t, err, shard.ErrNoMap)
	require.ErrorIs(t, a.CompareAndSwap(ctx, 3, state(t, 4)), shard.ErrConflict, "nothing is stored")
	require.NoError(t, a.CompareAndSwap(ctx, 0, state(t, 1)))
	require.ErrorIs(t, b.CompareAndSwap(ctx, 0, state(t, 1)), shard.ErrConflict, "something is stored")
	got, err := b.Load(ctx)
	require.NoError(t, err)
	require.Equal(t, state(t, 1), got)
	require.NoError(t, b.CompareAndSwap(ctx, 1, state(t, 2)))
	require.ErrorIs(t, a.CompareAndSwap(ctx, 1, state(t, 2)), shard.ErrConflict)
	got, err = a.Load(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, got.Epoch())
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
				if s.CompareAndSwap(ctx, st.Epoch(), state(t, st.Epoch()+1)) == nil {
					n++
					wins.Add(1)
				}
			}
		})
	}
	wg.Wait()
	got, err = a.Load(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2+wins.Load(), got.Epoch())
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
