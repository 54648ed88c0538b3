package cache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
)

// memory is a Remote in the process that can be cut off. Its leases are not fenced: these tests write by one hand.
type memory struct {
	mu      sync.Mutex
	values  map[string]string
	cut     bool
	deletes int
}

var errCut = errors.New("cut off")

func (m *memory) do(f func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cut {
		return errCut
	}
	f()
	return nil
}

func (m *memory) Fetch(_ context.Context, key string) (got cache.Fetched, err error) {
	err = m.do(func() {
		if v, ok := m.values[key]; ok {
			got = cache.Fetched{Value: []byte(v), TTL: time.Minute}
		} else {
			got.Lease = "lease"
		}
	})
	return got, err
}

func (m *memory) Fill(ctx context.Context, key, _ string, value []byte, ttl time.Duration) (bool, error) {
	err := m.Set(ctx, key, value, ttl)
	return err == nil, err
}

func (m *memory) Release(context.Context, string, string) error { return m.do(func() {}) }

func (m *memory) Set(_ context.Context, key string, value []byte, _ time.Duration) error {
	return m.do(func() { m.values[key] = string(value) })
}

func (m *memory) Delete(_ context.Context, key string) error {
	return m.do(func() {
		delete(m.values, key)
		m.deletes++
	})
}

func (m *memory) Watch(func(string), func()) func() { return func() {} }

func (m *memory) Trusted() bool { return m.do(func() {}) == nil }

func (m *memory) cutOff(cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = cut
}

func newMemory() *memory { return &memory{values: map[string]string{}} }

// A server that comes back with what it had does not serve what was changed meanwhile: these keys are deleted first,
// also where nobody repeats the change.
func TestRingPaysItsDebts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, server := t.Context(), newMemory()
		r, err := cache.NewRing(cache.RingOptions{Servers: map[string]cache.Remote{"a": server}, Gutter: newMemory()})
		require.NoError(t, err)
		defer r.Close()
		time.Sleep(time.Second) // it was seen to be well
		for i := range 100 {
			require.NoError(t, r.Set(ctx, fmt.Sprint(i), []byte("old"), time.Minute))
		}
		server.cutOff(true)
		require.ErrorIs(t, r.Delete(ctx, "0"), errCut, "before it is seen to be out")
		time.Sleep(time.Second)
		require.EqualValues(t, 1, r.Stats().Out)
		for i := 1; i < 50; i++ {
			require.ErrorIs(t, r.Set(ctx, fmt.Sprint(i), []byte("new"), time.Minute), cache.ErrServerOut)
		}
		require.EqualValues(t, 50, r.Stats().Owed)
		time.Sleep(time.Minute)
		require.EqualValues(t, 50, r.Stats().Owed)
		server.cutOff(false)
		for r.Stats().Out > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		require.Zero(t, r.Stats().Owed)
		require.EqualValues(t, 50, r.Stats().Repaid)
		for i := range 100 {
			got, err := r.Fetch(ctx, fmt.Sprint(i))
			require.NoError(t, err)
			require.Equal(t, i >= 50, got.Value != nil, i)
		}

		// A change that fails while the server is in use is made up for as well.
		server.cutOff(true)
		require.ErrorIs(t, r.Delete(ctx, "99"), errCut)
		server.cutOff(false)
		require.Zero(t, r.Stats().Out)
		time.Sleep(200 * time.Millisecond)
		got, err := server.Fetch(ctx, "99")
		require.NoError(t, err)
		require.Nil(t, got.Value)
		require.Zero(t, r.Stats().Owed)
	})
}

// What is remembered is bounded, and what is not is counted.
func TestRingDebtIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newMemory()
		r, err := cache.NewRing(cache.RingOptions{Servers: map[string]cache.Remote{"a": server}})
		require.NoError(t, err)
		defer r.Close()
		time.Sleep(time.Second)
		server.cutOff(true)
		time.Sleep(time.Second)
		for i := range 10_500 {
			require.ErrorIs(t, r.Delete(t.Context(), fmt.Sprint(i)), cache.ErrServerOut)
		}
		st := r.Stats()
		require.EqualValues(t, 10_000, st.Owed)
		require.EqualValues(t, 500, st.Forgotten)
	})
}
