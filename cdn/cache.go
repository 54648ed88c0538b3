package cdn

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("cdn: closed")

// Options configure a [Cache]. The zero value of every field is a good default.
type Options struct {
	MaxBytes  int64       // memory for objects, headers included; 0: 64 MiB
	MaxObject int64       // largest object kept; larger ones pass through; 0: the smaller of MaxBytes/8 and 64 MiB
	Disk      DiskOptions // second tier; off unless Dir is set

	StaleIfError         time.Duration // how long a stale object may serve when the origin fails and says nothing itself; 0: 1 minute; negative: never
	StaleWhileRevalidate time.Duration // how long a stale object may serve while it is refreshed, when the origin says nothing itself; 0: never
	HeuristicMax         time.Duration // cap of heuristic freshness (10 % of the age); 0: 24 h; negative: no heuristics
	HitForMiss           time.Duration // how long it is remembered that a key cannot be cached, so that its requests are not held; 0: 10 s; negative: not at all
	StoreSetCookie       bool          // keep responses with Set-Cookie when the origin gives explicit freshness, as RFC 9111 allows; default: only with public or s-maxage, and without the cookie
	Tags                 string        // response header with surrogate keys, separated by spaces or commas; empty: "Surrogate-Key" and "Cache-Tag"
	Name                 string        // in Cache-Status and Via; empty: "tierkit"
	Key                  KeyFunc       // nil: scheme, host, raw path and query
	MaxVariants          int           // per URL; 0: 64
	FillTimeout          time.Duration // longest fetch of one object; 0: 5 minutes
	Hooks                *Hooks
}

// DiskOptions of the second tier.
type DiskOptions struct {
	Dir      string // must exist or be creatable; one cache per directory
	MaxBytes int64  // 0: 1 GiB
	NoSync   bool   // do not fsync; a crash of the machine (not of the process) may then lose objects, never damage one
}

// KeyFunc appends the cache key of a request to dst. Two requests with one key get one object.
type KeyFunc func(dst []byte, r *http.Request) []byte

// Cache stores responses. It is safe for concurrent use.
type Cache struct{ _ struct{} }

// New returns a running cache. Close it.
func New(o Options) (*Cache, error) { return nil, errors.New("cdn: not built yet") }

// Handler caches what next serves. next runs on its own goroutine for fills, detached from the client.
func (c *Cache) Handler(next http.Handler) http.Handler { return nil }

// ProxyOptions of an edge in front of an origin.
type ProxyOptions struct {
	Transport http.RoundTripper // nil: a transport of its own without compression; an lb RoundTripper fits
	Fallbacks []string          // further origins, tried in order when one cannot be reached
	KeepHost  bool              // send the client's Host to the origin; default: the origin's
	Timeout   time.Duration     // until the origin's header; 0: 30 s
}

// Proxy caches what the origin ("http://host:port") serves.
func (c *Cache) Proxy(origin string, o ProxyOptions) (http.Handler, error) { return nil, nil }

// Match selects objects to purge: exactly one of URL, Prefix, Tag and All.
type Match struct {
	URL    string // absolute URL, all its variants
	Prefix string // of absolute URLs
	Tag    string // surrogate key
	All    bool
	Soft   bool // mark stale instead of removing, so that the next request revalidates and errors may serve stale
}

// Purger purges objects somewhere: this cache, all edges of a fleet, a vendor's CDN.
type Purger interface {
	Purge(ctx context.Context, m Match) (int, error)
}

// Purge removes what matches, also from fills that run now. It returns the number of objects in memory and on disk that were hit; when it
// returns, no request that starts later gets one of them.
func (c *Cache) Purge(ctx context.Context, m Match) (int, error) { return 0, nil }

// PurgeHandler answers POST with a JSON [Match] when auth allows it; a nil auth refuses everything.
func (c *Cache) PurgeHandler(auth func(*http.Request) bool) http.Handler { return nil }

// PurgeAll is a Purger that asks several, all at once; the counts add up and the errors are joined.
func PurgeAll(ps ...Purger) Purger { return nil }

// Warm fetches URLs through h (a handler of this cache) so that they are cached.
func (c *Cache) Warm(ctx context.Context, h http.Handler, urls ...string) error { return nil }

// Close ends fills and background work and closes the disk tier. It is idempotent.
func (c *Cache) Close() error { return nil }

// Outcome of one request.
type Outcome uint8

const (
	Hit         Outcome = iota // served from the cache, fresh
	Stale                      // served stale: while revalidating or because the origin failed
	Revalidated                // the origin said 304
	Miss                       // fetched and, if allowed, stored
	Collapsed                  // waited for another request's fetch
	Bypass                     // not cacheable by its request: passed through
	Failed                     // the origin failed and nothing could serve
)

func (o Outcome) String() string {
	return [...]string{"hit", "stale", "revalidated", "miss", "collapsed", "bypass", "error"}[o]
}

// Hooks observe; each func may be nil and must not block.
type Hooks struct {
	Served func(r *http.Request, o Outcome, status int, bytes int64, took time.Duration)
	Filled func(url string, status int, bytes int64, took time.Duration, stored bool)
}

// Stats of a [Cache].
type Stats struct {
	Hits        uint64 `metric:"hits_total,counter,served fresh from the cache"`
	Stale       uint64 `metric:"stale_total,counter,served stale"`
	Revalidated uint64 `metric:"revalidated_total,counter,served after a 304"`
	Misses      uint64 `metric:"misses_total,counter,fetched from the origin"`
	Collapsed   uint64 `metric:"collapsed_total,counter,waited for another request's fetch"`
	Bypassed    uint64 `metric:"bypassed_total,counter,passed through"`
	Errors      uint64 `metric:"errors_total,counter,origin failures that reached a client"`
	Fills       uint64 `metric:"fills_total,counter,requests to the origin"`
	Evictions   uint64 `metric:"evictions_total,counter,objects evicted to stay within the budget"`
	Purged      uint64 `metric:"purged_total,counter,objects purged"`
	BytesOut    uint64 `metric:"bytes_out_total,counter,body bytes sent to clients"`
	BytesIn     uint64 `metric:"bytes_in_total,counter,body bytes from the origin"`
	Objects     int    `metric:"objects,gauge,objects in memory"`
	Bytes       int64  `metric:"bytes,gauge,bytes in memory"`
	DiskObjects int    `metric:"disk_objects,gauge,objects on disk"`
	DiskBytes   int64  `metric:"disk_bytes,gauge,bytes on disk"`
	DiskHits    uint64 `metric:"disk_hits_total,counter,objects read from disk"`
	InFlight    int    `metric:"fills_in_flight,gauge,fetches that run now"`
}

// Stats returns counters and gauges.
func (c *Cache) Stats() Stats { return Stats{} }
