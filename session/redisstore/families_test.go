package redisstore_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/session/redisstore"
	"github.com/tierkit/tierkit/session/token"
)

func TestFamilies(t *testing.T) {
	for name, addr := range map[string]func() string{
		"miniredis": func() string { return miniredis.RunT(t).Addr() },
		"redis":     func() string { return testserver.Redis(t).Addr() },
	} {
		t.Run(name, func(t *testing.T) { familyStore(t, addr()) })
	}
}

func familyStore(t *testing.T, addr string) {
	// Two clients stand for two servers.
	open := func() *redisstore.Families {
		c := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { c.Close() })
		s, err := redisstore.NewFamilies(c, redisstore.Options{})
		require.NoError(t, err)
		return s
	}
	a, b := open(), open()
	ctx := t.Context()
	now := time.Now().Round(time.Millisecond).UTC()
	f := token.Family{Subject: "ada", Version: 1, Current: 1, Rotated: now, Expires: now.Add(time.Hour),
		Extra: map[string]string{"role": "admin"}}
	_, err := a.Load(ctx, "x")
	require.ErrorIs(t, err, token.ErrRevoked)
	_, err = a.Update(ctx, "x", f)
	require.ErrorIs(t, err, token.ErrRevoked)
	require.NoError(t, a.Create(ctx, "x", f))
	got, err := b.Load(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, f, got)

	// Both loaded version 1: only the first update counts.
	f.Current = 2
	ok, err := a.Update(ctx, "x", f)
	require.NoError(t, err)
	require.True(t, ok)
	ok, err = b.Update(ctx, "x", f)
	require.NoError(t, err)
	require.False(t, ok, "the other server has exchanged it")
	got, err = b.Load(ctx, "x")
	require.NoError(t, err)
	require.EqualValues(t, 2, got.Version)

	// Of many that swap the same version at once, one does.
	var won atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if ok, err := []*redisstore.Families{a, b}[i%2].Update(context.WithoutCancel(ctx), "x", got); err == nil &&
				ok {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())

	require.NoError(t, a.Delete(ctx, "x"))
	require.NoError(t, a.Delete(ctx, "x"))
	_, err = b.Load(ctx, "x")
	require.ErrorIs(t, err, token.ErrRevoked)

	f.Expires = time.Now().Add(-time.Second)
	require.NoError(t, a.Create(ctx, "old", f))
	_, err = b.Load(ctx, "old")
	require.ErrorIs(t, err, token.ErrRevoked)
}

// A refresh token that two servers exchange at once gets one successor.
func TestRefreshOnTwoServers(t *testing.T) {
	addr := miniredis.RunT(t).Addr()
	key := token.Key{ID: "k", Secret: make([]byte, 32)}
	var servers []*token.Refresher
	for range 2 {
		c := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { c.Close() })
		families, err := redisstore.NewFamilies(c, redisstore.Options{})
		require.NoError(t, err)
		authority, err := token.New([]token.Key{key}, token.Options{Issuer: "i"})
		require.NoError(t, err)
		r, err := token.NewRefresher(authority, families, token.RefreshOptions{})
		require.NoError(t, err)
		servers = append(servers, r)
	}
	pair, err := servers[0].Issue(t.Context(), token.Claims{Subject: "ada"})
	require.NoError(t, err)
	next := make([]string, 2)
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			p, err := s.Refresh(context.WithoutCancel(t.Context()), pair.Refresh)
			if err == nil {
				next[i] = p.Refresh
			}
		})
	}
	wg.Wait()
	require.NotEmpty(t, next[0])
	require.Equal(t, next[0], next[1])
}
