package cache

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A Get that has looked for pending writes before one came, and begins its load after that, does not bring back what
// the store still has.
func TestGetThatIsLate(t *testing.T) {
	c, err := New(Options[string, int]{})
	require.NoError(t, err)
	stored := Funcs[string, int]{
		GetFunc:    func(context.Context, string) (int, error) { return 1, nil },
		DeleteFunc: func(context.Context, string) error { return nil },
		SetFunc:    func(context.Context, string, int) error { return nil },
	}
	b, err := NewBack(c, stored, BackOptions{Delay: time.Hour})
	require.NoError(t, err)
	require.NoError(t, b.Delete(t.Context(), "deleted"))
	require.NoError(t, b.Set(t.Context(), "changed", 2))
	c.Delete("changed") // as if there were no room
	_, err = c.Load(t.Context(), "deleted", b.read)
	require.ErrorIs(t, err, ErrNotFound)
	v, err := c.Load(t.Context(), "changed", b.read)
	require.NoError(t, err)
	require.Equal(t, 2, v)
	require.NoError(t, b.Close(t.Context()))
	_, ok := c.Get("deleted")
	require.False(t, ok)
	v, err = b.Get(t.Context(), "unchanged")
	require.NoError(t, err)
	require.Equal(t, 1, v)
}

// Of two writers of a number at the same time, one leaves its value and its deadline, and not one of each.
func TestValueAndDeadlineBelongTogether(t *testing.T) {
	c, err := New(Options[int, int]{TTL: time.Hour})
	require.NoError(t, err)
	defer c.Close()
	for range 50_000 {
		c.SetTTL(1, 0, 30*time.Minute)
		start := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { <-start; c.SetTTL(1, 1, time.Hour) })
		wg.Go(func() { <-start; runtime.Gosched(); c.SetTTL(1, 2, time.Minute) })
		close(start)
		wg.Wait()
		s, hash := c.locate(1)
		n := s.table.Load().find(1, hash)
		left := time.Duration(n.fresh() - c.now())
		require.Equal(t, c.value(n) == 1, left > 10*time.Minute, "%d has %v", c.value(n), left)
	}
}
