package cache

import (
	"time"
)

// The janitor removes expired entries that nobody reads. It walks through the tables a few buckets at a time, so that
// an entry is gone about a quarter of the shortest TTL (at least a second, at most a minute) after its end, and entries
// need no place in a timer structure. Reads never depend on it: they look at the deadline themselves.

const (
	sweepBuckets = 128 // under one lock
	minSweep     = time.Second
	maxSweep     = time.Minute
)

// hire starts the janitor with the first entry that has a TTL.
func (c *Cache[K, V]) hire(ttl int64) {
	c.life.Lock()
	defer c.life.Unlock()
	if ttl < c.shortest.Load() {
		c.shortest.Store(ttl)
	}
	if c.janitor || c.closed {
		c.timedSet.Store(true)
		return
	}
	c.janitor = true
	c.timedSet.Store(true)
	c.counted.Store(c.clock.Counts() && c.o.ClockError == 0 && c.o.Idle == 0 && !c.locking)
	c.tasks.Add(1)
	go c.sweeps()
	if c.o.ClockError > 0 {
		c.ticked.Store(c.now())
		c.tasks.Add(1)
		go c.ticks()
	}
}

// ticks moves the late clock, twice per ClockError.
func (c *Cache[K, V]) ticks() {
	defer c.tasks.Done()
	t := time.NewTicker(c.o.ClockError / 2)
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			c.ticked.Store(0) // reads go on, with the exact time
			return
		case <-t.C:
			c.ticked.Store(c.now())
		}
	}
}

func (c *Cache[K, V]) sweeps() {
	defer c.tasks.Done()
	timer := time.NewTimer(minSweep)
	defer timer.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-timer.C:
		}
		c.clock.Check()
		for i := range c.shards {
			for c.sweep(&c.shards[i]) {
				select {
				case <-c.stop:
					return
				default:
				}
			}
		}
		timer.Reset(min(maxSweep, max(minSweep, time.Duration(c.shortest.Load()/4))))
	}
}

// sweep removes what is of no more use from the next few buckets of a shard, and reports whether there are more.
func (c *Cache[K, V]) sweep(s *shard[K, V]) bool {
	now := c.now()
	var out removed[K, V]
	s.mu.Lock()
	t := s.table.Load()
	if s.swept >= len(t.buckets) {
		s.swept = 0
	}
	t.each(s.swept, s.swept+sweepBuckets, func(n *node[K, V]) {
		if c.useless(n, now) {
			c.drop(s, n, Expired, &out)
		}
	})
	s.swept += sweepBuckets
	more := s.swept < len(t.buckets)
	s.mu.Unlock()
	c.report(&out)
	return more
}

// useless reports whether an entry is past everything that it could still be served for.
func (c *Cache[K, V]) useless(n *node[K, V], now int64) bool {
	end := n.fresh()
	if end == never {
		end = never - c.stale
	}
	if end+c.stale <= now {
		return true
	}
	return c.o.Idle > 0 && n.class() == richClass && now-n.rich().read.Load() >= int64(c.o.Idle)
}

// Close stops the cache's goroutines: the janitor, and refreshes in the background, which it waits for. The cache stays
// readable. Idempotent.
func (c *Cache[K, V]) Close() error {
	c.life.Lock()
	if !c.closed {
		c.closed = true
		close(c.stop)
		c.counted.Store(false)
		c.clock.Stop() // nobody is left to check it
	}
	c.life.Unlock()
	c.tasks.Wait()
	return nil
}
