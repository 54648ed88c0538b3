package cache_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
)

func TestTags(t *testing.T) {
	var removed []string
	c, err := cache.NewTagged(cache.Options[string, int]{OnRemove: func(k string, v int, _ cache.Cause) {
		removed = append(removed, fmt.Sprint(k, v))
	}})
	require.NoError(t, err)
	defer c.Close()
	c.Set("page1", 1, "product7", "shop")
	c.Set("page2", 2, "product8", "shop")
	c.Set("page3", 3)
	has := func(want ...bool) {
		t.Helper()
		for i, w := range want {
			_, ok := c.Get(fmt.Sprint("page", i+1))
			require.Equal(t, w, ok, "page%d", i+1)
		}
	}
	has(true, true, true)
	c.DeleteTag("product7", "unknown")
	has(false, true, true)
	c.Set("page1", 11, "product7")
	has(true, true, true)
	c.DeleteTag("shop")
	has(true, false, true)
	v, err := c.Load(t.Context(), "page2", func(context.Context, string) (int, []string, error) {
		return 22, []string{"shop"}, nil
	})
	require.NoError(t, err)
	require.Equal(t, 22, v)
	has(true, true, true)
	require.Contains(t, removed, "page22", "an invalid entry leaves when it is asked for")
	// more tags than are remembered: everything is loaded again rather than one entry served too long
	for i := range 100_001 {
		c.DeleteTag(fmt.Sprint("t", i))
	}
	has(false, false, false)
	_, err = cache.NewTagged(cache.Options[string, int]{TTL: -1})
	require.ErrorContains(t, err, "Options.TTL")
}

// A load that began before its tag changed does not come into the cache, and one load serves all who ask after the
// change.
func TestTagChangedDuringALoad(t *testing.T) {
	c, err := cache.NewTagged(cache.Options[string, int]{})
	require.NoError(t, err)
	defer c.Close()
	began, goOn := make(chan struct{}), make(chan struct{})
	first := make(chan int)
	go func() {
		v, _ := c.Load(context.Background(), "k", func(context.Context, string) (int, []string, error) {
			close(began)
			<-goOn
			return 1, []string{"t"}, nil
		})
		first <- v
	}()
	<-began
	c.DeleteTag("t")
	var loads atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			v, err := c.Load(context.Background(), "k", func(context.Context, string) (int, []string, error) {
				loads.Add(1)
				return 2, []string{"t"}, nil
			})
			if v != 2 || err != nil {
				t.Errorf("got %d, %v after the change", v, err)
			}
		})
	}
	close(goOn)
	wg.Wait()
	require.Equal(t, 1, <-first, "who asked before may have the old one")
	require.EqualValues(t, 1, loads.Load())
	v, ok := c.Get("k")
	require.True(t, ok)
	require.Equal(t, 2, v)
}

// Writers change rows that pages are made of; a page never shows a row older than the change that was made before it
// was asked for.
func TestTagsUnderLoad(t *testing.T) {
	c, err := cache.NewTagged(cache.Options[int, [2]int64]{MaxEntries: 64})
	require.NoError(t, err)
	defer c.Close()
	var rows [8]atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				r := rand.IntN(len(rows))
				if rand.IntN(10) == 0 {
					rows[r].Add(1)
					c.DeleteTag(fmt.Sprint("row", r))
				}
				a, b := rand.IntN(len(rows)), rand.IntN(len(rows))
				least := [2]int64{rows[a].Load(), rows[b].Load()}
				c.DeleteTag(fmt.Sprint("row", a), fmt.Sprint("row", b)) // as the writer of these would have, by now
				got, err := c.Load(context.Background(), a*8+b, func(context.Context, int) ([2]int64, []string, error) {
					return [2]int64{rows[a].Load(), rows[b].Load()},
						[]string{fmt.Sprint("row", a), fmt.Sprint("row", b)}, nil
				})
				if err != nil || got[0] < least[0] || got[1] < least[1] {
					t.Errorf("got %v, %v; at least %v", got, err, least)
				}
			}
		})
	}
	wg.Wait()
}

func TestFresh(t *testing.T) {
	c, err := cache.NewFresh(cache.Options[string, string]{}, cmp.Compare[int])
	require.NoError(t, err)
	defer c.Close()
	require.True(t, c.Set("k", "five", 5))
	require.False(t, c.Set("k", "four", 4), "older")
	v, ok := c.Get("k", 0)
	require.True(t, ok)
	require.Equal(t, "five", v)
	_, ok = c.Get("k", 6)
	require.False(t, ok, "the caller has seen more")

	// A write at 8; the replica has only 7.
	c.Changed("k", 8)
	_, ok = c.Get("k", 0)
	require.False(t, ok)
	replica, asked := 7, 0
	load := func(_ context.Context, _ string, least int) (string, int, error) {
		asked = least
		return fmt.Sprint("as of ", replica), replica, nil
	}
	v, err = c.Load(t.Context(), "k", 0, load)
	require.NoError(t, err)
	require.Equal(t, "as of 7", v)
	require.Equal(t, 8, asked, "the loader is told what is needed")
	_, ok = c.Get("k", 0)
	require.False(t, ok, "but an older value is not kept")
	replica = 9
	v, err = c.Load(t.Context(), "k", 0, load)
	require.NoError(t, err)
	require.Equal(t, "as of 9", v)
	_, ok = c.Get("k", 9)
	require.True(t, ok)
	replica = 12
	v, err = c.Load(t.Context(), "k", 11, load)
	require.NoError(t, err)
	require.Equal(t, "as of 12", v, "what is there is too old for this caller")
	for i := range 100_001 {
		c.Changed(fmt.Sprint("other", i), 20)
	}
	_, ok = c.Get("k", 0)
	require.False(t, ok, "what was forgotten counts for all")
}

// Replicas lag at random; whoever has been told of a write never finds an older value in the cache.
func TestFreshUnderLoad(t *testing.T) {
	c, err := cache.NewFresh(cache.Options[int, int64]{MaxEntries: 32}, cmp.Compare[int64])
	require.NoError(t, err)
	defer c.Close()
	var primary [16]atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10_000 {
				k := rand.IntN(len(primary))
				if rand.IntN(8) == 0 {
					c.Changed(k, primary[k].Add(1))
				}
				floor := primary[k].Load()
				c.Changed(k, floor)
				if v, ok := c.Get(k, 0); ok && v < floor {
					t.Errorf("found %d, written %d", v, floor)
				}
				_, err := c.Load(context.Background(), k, 0,
					func(_ context.Context, k int, _ int64) (int64, int64, error) {
						at := max(0, primary[k].Load()-int64(rand.IntN(3))) // a replica
						return at, at, nil
					})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
