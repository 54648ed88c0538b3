// Package redis stands in for two Redis servers: it runs them in this process, on loopback, one for sessions and one as
// the second cache tier. The one for sessions keeps its writes in an append-only file, so that sessions outlive a
// restart.
package redis

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"
)

// Servers are the two servers with a client of each. Methods are safe for concurrent use.
type Servers struct {
	Sessions, Cache *goredis.Client

	sessions, cache *miniredis.Miniredis
	journal         *journal
	done            chan struct{}
	clock           sync.WaitGroup

	mu        sync.Mutex // guards cacheDown
	cacheDown bool
}

// Start starts both servers. What the one for sessions held before is read from dir.
func Start(ctx context.Context, dir string) (*Servers, error) {
	goredis.SetLogger(quietClient{}) // the client's own lines about a tier that a drill has killed
	s := &Servers{sessions: miniredis.NewMiniRedis(), cache: miniredis.NewMiniRedis(), done: make(chan struct{})}
	if err := s.sessions.Start(); err != nil {
		return nil, err
	}
	if err := s.cache.Start(); err != nil {
		s.sessions.Close()
		return nil, err
	}
	open := func(m *miniredis.Miniredis) *goredis.Client {
		return goredis.NewClient(&goredis.Options{Addr: m.Addr(), DialTimeout: 200 * time.Millisecond,
			ReadTimeout: time.Second, MaxRetries: 1, PoolSize: 64})
	}
	s.Sessions, s.Cache = open(s.sessions), open(s.cache)
	s.clock.Go(s.tick)
	var err error
	if s.journal, err = openJournal(ctx, filepath.Join(dir, "sessions.log"), s.Sessions); err != nil {
		s.Close()
		return nil, err
	}
	s.Sessions.AddHook(s.journal)
	return s, nil
}

// tick pushes the servers' clocks, which stand still by themselves.
func (s *Servers) tick() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-t.C:
			s.sessions.FastForward(time.Second)
			s.cache.FastForward(time.Second)
		}
	}
}

// KillCache ends the second cache tier with everything it holds.
func (s *Servers) KillCache() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.Close()
	s.cacheDown = true
}

// ReviveCache starts it again, empty.
func (s *Servers) ReviveCache() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.FlushAll()
	err := s.cache.Restart()
	s.cacheDown = err != nil
	return err
}

// CacheAlive reports whether the second cache tier runs.
func (s *Servers) CacheAlive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.cacheDown
}

// Close ends both servers and their clients.
func (s *Servers) Close() {
	close(s.done)
	s.clock.Wait()
	s.Sessions.Close()
	s.Cache.Close()
	if s.journal != nil {
		s.journal.f.Close()
	}
	s.sessions.Close()
	s.cache.Close()
}

type quietClient struct{}

func (quietClient) Printf(context.Context, string, ...any) {}
