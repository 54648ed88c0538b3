// Package rediscache is the second tier of package cache in Redis or Valkey: leases, fenced fills, and invalidation of
// every process's first tier.
//
// How a Delete is known to have reached everybody. A process that keeps a first tier renews a registration in Redis a
// few times per [Options.Confirm], and serves its first tier only while the latest registration is confirmed over the
// connection on which invalidations arrive: since that connection keeps the order, all invalidations published before
// have then been applied. A Delete removes the value, publishes the key, and reads in the same atomic step which
// processes are registered; it returns when each of them has acknowledged, or its registration has run out, so at most
// Confirm later. A process that is cut off from Redis stops trusting its first tier by itself, and empties it before it
// trusts it again.
//
// Redis must be used as a cache: without persistence (or flushed at its start), and without failover to a replica that
// lags, because a server that comes back with old data brings deleted values back.
package rediscache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/cache"
)

// Options configure a [Remote]. The zero value is good.
type Options struct {
	// Prefix of all keys and channels: processes with the same prefix share the tier. Default "cache:".
	Prefix string
	// Lease is how long a process has to load a value, and so the longest that others wait for one that has died. A
	// lease whose answer was lost is released as soon as the server answers again. Default 10 s.
	Lease time.Duration
	// Confirm is how long a first tier may serve without hearing from Redis, and so the longest that Delete and Set
	// wait for a process that has died. Default 1 s, minimum 20 ms.
	Confirm time.Duration
	// Timeout bounds each operation, beside Confirm, and each wait for an answer of the server. Default 1 s. Clients
	// other than [redis.Client], such as those of a cluster, obey it only with their own option ContextTimeoutEnabled.
	Timeout time.Duration
}

// Remote is a [cache.Remote] on Redis. It is safe for concurrent use and does not close the client.
type Remote struct {
	client redis.UniversalClient
	o      Options
	id     string // of this process's part, in registrations and acknowledgements
	start  time.Time

	trusted atomic.Int64 // until, nanoseconds since start
	seq     atomic.Uint64

	mu       sync.Mutex // guards what follows
	watchers map[int]watcher
	nextID   int
	waits    map[string]*wait
	// abandoned leases wait for the next answer of the server.
	abandoned []abandoned
	closed    bool

	answers chan []abandoned // cap 1: the server answers, so these can be released
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	sub     *redis.PubSub
}

type watcher struct {
	drop  func(string)
	flush func()
}

// wait is a change that is not yet acknowledged by all.
type wait struct {
	acked map[string]bool
	moved chan struct{} // cap 1
}

// New connects the tier and starts listening. Close it.
func New(client redis.UniversalClient, o Options) (*Remote, error) {
	if client == nil {
		return nil, errors.New("rediscache: client is nil")
	}
	if o.Prefix == "" {
		o.Prefix = "cache:"
	}
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&o.Lease, 10*time.Second)
	or(&o.Confirm, time.Second)
	or(&o.Timeout, time.Second)
	switch {
	case o.Lease < time.Millisecond:
		return nil, fmt.Errorf("rediscache: Options.Lease is %v, must be at least 1ms", o.Lease)
	case o.Confirm < 20*time.Millisecond:
		return nil, fmt.Errorf("rediscache: Options.Confirm is %v, must be at least 20ms", o.Confirm)
	case o.Timeout < time.Millisecond:
		return nil, fmt.Errorf("rediscache: Options.Timeout is %v, must be at least 1ms", o.Timeout)
	}
	// A client without ContextTimeoutEnabled waits for its ReadTimeout however early a context ends: a frozen server
	// would hold every read for seconds.
	if c, ok := client.(*redis.Client); ok && !c.Options().ContextTimeoutEnabled {
		client = c.WithTimeout(o.Timeout)
	}
	r := &Remote{client: client, o: o, id: rand.Text()[:16], start: time.Now(), watchers: map[int]watcher{},
		waits: map[string]*wait{}, answers: make(chan []abandoned, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.sub = client.Subscribe(ctx, r.changes(), r.acks(r.id))
	r.tasks.Add(3)
	go r.listen(ctx)
	go r.renew(ctx)
	go r.giveUp(ctx)
	return r, nil
}

func (r *Remote) changes() string       { return r.o.Prefix + "changes" }
func (r *Remote) acks(id string) string { return r.o.Prefix + "acks:" + id }
func (r *Remote) nodes() string         { return r.o.Prefix + "nodes" }

// keys of a value and its lease have one hash tag, and so one slot of a cluster.
func (r *Remote) keys(key string) []string {
	// what is between the first { and the first } after it is the tag, unless that is nothing
	if key == "" || key[0] == '}' {
		return []string{r.o.Prefix + "w:{-" + key + "}", r.o.Prefix + "m:{-" + key + "}"}
	}
	return []string{r.o.Prefix + "v:{" + key + "}", r.o.Prefix + "l:{" + key + "}"}
}

// fetch takes the lease if nobody has it. A client that repeats the command after a lost answer finds its own, and has
// it.
var fetch = redis.NewScript(`
local v = redis.call('GET', KEYS[1])
if v then return {v, redis.call('PTTL', KEYS[1])} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[2]) == ARGV[1] then return {1} end
return {0}
`)

var fill = redis.NewScript(`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
`)

var release = redis.NewScript(`
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 0
`)

// change drops the lease, sets or deletes the value, publishes, and returns who must acknowledge and for how long:
// registrations end at the server's time. ARGV: channel, message, nodes key, value, TTL (0: delete).
var change = redis.NewScript(`
redis.call('DEL', KEYS[2])
if ARGV[5] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5]) end
redis.call('PUBLISH', ARGV[1], ARGV[2])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local out = {tostring(now)}
local live = redis.call('ZRANGEBYSCORE', ARGV[3], '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES')
for i = 1, #live do out[#out + 1] = tostring(live[i]) end
return out
`)

var register = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 60000))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2] + 1), ARGV[1])
return 1
`)

func (r *Remote) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, r.o.Timeout)
}

// Fetch implements [cache.Remote] in one round trip.
func (r *Remote) Fetch(ctx context.Context, key string) (cache.Fetched, error) {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	lease := r.id + strconv.FormatUint(r.seq.Add(1), 36)
	res, err := fetch.Run(ctx, r.client, r.keys(key), lease, r.o.Lease.Milliseconds()).Slice()
	if err != nil {
		r.abandon(abandoned{key, lease})
		return cache.Fetched{}, fmt.Errorf("rediscache: fetch: %w", err)
	}
	return fetched(res, lease), nil
}

func fetched(res []any, lease string) cache.Fetched {
	switch v := res[0].(type) {
	case string:
		ttl, _ := res[1].(int64)
		return cache.Fetched{Value: []byte(v), TTL: time.Duration(max(1, ttl)) * time.Millisecond}
	case int64:
		if v == 1 {
			return cache.Fetched{Lease: lease}
		}
	}
	return cache.Fetched{}
}

func ttlMS(ttl time.Duration) int64 { return max(1, ttl.Milliseconds()) }

// Fill implements [cache.Remote].
func (r *Remote) Fill(ctx context.Context, key, lease string, value []byte, ttl time.Duration) (bool, error) {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	n, err := fill.Run(ctx, r.client, r.keys(key), lease, value, ttlMS(ttl)).Int()
	if err != nil {
		r.abandon(abandoned{key, lease})
		return false, fmt.Errorf("rediscache: fill: %w", err)
	}
	return n == 1, nil
}

// Release implements [cache.Remote].
func (r *Remote) Release(ctx context.Context, key, lease string) error {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	if err := release.Run(ctx, r.client, r.keys(key), lease).Err(); err != nil {
		r.abandon(abandoned{key, lease})
		return fmt.Errorf("rediscache: release: %w", err)
	}
	return nil
}

// Set implements [cache.Remote].
func (r *Remote) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return r.change(ctx, key, value, ttlMS(ttl))
}

// Delete implements [cache.Remote].
func (r *Remote) Delete(ctx context.Context, key string) error { return r.change(ctx, key, nil, 0) }

// change writes and waits for every registered process.
func (r *Remote) change(ctx context.Context, key string, value []byte, ttl int64) error {
	id := strconv.FormatUint(r.seq.Add(1), 36)
	w := &wait{acked: map[string]bool{}, moved: make(chan struct{}, 1)}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return fmt.Errorf("rediscache: %w", cache.ErrClosed)
	}
	r.waits[id] = w
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waits, id)
		r.mu.Unlock()
	}()
	octx, cancel := r.bound(ctx)
	defer cancel()
	message := r.id + "|" + id + "|" + key
	res, err := change.Run(octx, r.client, r.keys(key), r.changes(), message, r.nodes(), value, ttl).StringSlice()
	if err != nil {
		return fmt.Errorf("rediscache: change: %w", err)
	}
	returned := time.Now()
	now, err := strconv.ParseFloat(res[0], 64)
	if err != nil || len(res)%2 != 1 {
		return fmt.Errorf("rediscache: change: unexpected answer %q", res)
	}
	missing := map[string]time.Time{} // until when each process may serve the old value
	for i := 1; i < len(res); i += 2 {
		end, err := strconv.ParseFloat(res[i+1], 64)
		if err != nil {
			return fmt.Errorf("rediscache: change: unexpected answer %q", res)
		}
		left := time.Duration((end - now) * float64(time.Millisecond))
		missing[res[i]] = returned.Add(left)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		r.mu.Lock()
		for node := range w.acked {
			delete(missing, node)
		}
		r.mu.Unlock()
		var next time.Time
		for node, end := range missing {
			if !time.Now().Before(end) {
				delete(missing, node)
			} else if next.IsZero() || end.Before(next) {
				next = end
			}
		}
		if len(missing) == 0 {
			return nil
		}
		timer.Reset(time.Until(next))
		select {
		case <-w.moved:
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("rediscache: change not confirmed by %d processes: %w", len(missing), ctx.Err())
		}
	}
}

// Watch implements [cache.Remote].
func (r *Remote) Watch(drop func(key string), flush func()) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.nextID
	r.nextID++
	r.watchers[id] = watcher{drop, flush}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, id)
	}
}

// Trusted implements [cache.Remote].
func (r *Remote) Trusted() bool { return int64(time.Since(r.start)) < r.trusted.Load() }

// Close ends the subscription. First tiers are no longer trusted. Idempotent.
func (r *Remote) Close() error {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if first {
		r.trusted.Store(0)
		r.cancel()
		_ = r.sub.Close()
		// Others need not wait for this registration to run out.
		ctx, cancel := r.bound(context.Background())
		defer cancel()
		r.tasks.Wait()
		r.trusted.Store(0)
		_ = r.client.ZRem(ctx, r.nodes(), r.id).Err()
	}
	r.tasks.Wait()
	return nil
}
