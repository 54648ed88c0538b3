package stack

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// redisTier holds the stand-ins that speak Redis's protocol in this process: one for sessions, in the witness domain,
// and one as second cache tier, which may be killed.
type redisTier struct {
	sessions, cache *miniredis.Miniredis
	sessionClient   *redis.Client
	cacheClient     *redis.Client
	journal         *journal

	mu        sync.Mutex // guards cacheDown
	cacheDown bool
}

func startRedis(ctx context.Context, wg *sync.WaitGroup, dir string) (*redisTier, error) {
	redis.SetLogger(quietRedis{}) // the client's own lines about a tier that a drill has killed
	t := &redisTier{sessions: miniredis.NewMiniRedis(), cache: miniredis.NewMiniRedis()}
	if err := t.sessions.Start(); err != nil {
		return nil, err
	}
	if err := t.cache.Start(); err != nil {
		t.sessions.Close()
		return nil, err
	}
	open := func(m *miniredis.Miniredis) *redis.Client {
		return redis.NewClient(&redis.Options{Addr: m.Addr(), DialTimeout: 200 * time.Millisecond,
			ReadTimeout: time.Second, MaxRetries: 1, PoolSize: 64})
	}
	t.sessionClient, t.cacheClient = open(t.sessions), open(t.cache)
	journal, err := openJournal(ctx, filepath.Join(dir, "sessions.log"), t.sessionClient)
	if err != nil {
		t.close()
		return nil, err
	}
	t.journal = journal
	t.sessionClient.AddHook(journal)
	wg.Go(func() { // its clock stands still unless it is pushed
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				t.sessions.FastForward(time.Second)
				t.cache.FastForward(time.Second)
			}
		}
	})
	return t, nil
}

// killCache ends the second cache tier with everything it holds; reviveCache starts it again, empty.
func (t *redisTier) killCache() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cache.Close()
	t.cacheDown = true
}

func (t *redisTier) reviveCache() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cache.FlushAll()
	err := t.cache.Restart()
	t.cacheDown = err != nil
	return err
}

func (t *redisTier) cacheAlive() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.cacheDown
}

func (t *redisTier) close() {
	t.sessionClient.Close()
	t.cacheClient.Close()
	if t.journal != nil {
		t.journal.f.Close()
	}
	t.sessions.Close()
	t.cache.Close()
}

type quietRedis struct{}

func (quietRedis) Printf(context.Context, string, ...any) {}
