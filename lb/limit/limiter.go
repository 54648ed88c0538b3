package limit

import (
	"fmt"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/clientaddr"
)

// Options say how many requests one client may make.
type Options struct {
	// PerSecond is the sustained rate of one client. It is required.
	PerSecond float64
	// Burst is how many requests a client may make at once. Zero means PerSecond, rounded up.
	Burst int
	// MaxKeys bounds the clients that are remembered; those that are quiet are forgotten first. Zero means 65536.
	MaxKeys int
	// Key returns the client that a request counts for, or false for a request that is not limited. Nil means the
	// client's address, an IPv6 one by its /64. It runs on the goroutine of the request.
	Key func(r *http.Request) (key string, limited bool)
	// TrustedProxies are the networks whose X-Forwarded-For is believed. Empty means none.
	TrustedProxies []netip.Prefix
	// Refused answers refused requests. Nil means 429 with Retry-After.
	Refused http.Handler
}

// Limiter holds clients to a rate by GCRA, the generic cell rate algorithm (ITU-T I.371). For each client it keeps one
// time, at which its bucket will be empty again. It is safe for concurrent use; a lock guards one of 64 shards.
type Limiter struct {
	o        Options
	interval time.Duration // between two requests at the sustained rate
	slack    time.Duration // how far ahead of it a burst may run
	most     int           // keys per shard
	began    time.Time
	seed     maphash.Seed // so that a client cannot choose its shard
	shards   [64]shard
}

type shard struct {
	mu   sync.Mutex // guards the maps; a key is in one of them
	now  map[string]time.Duration
	last map[string]time.Duration // forgotten as a whole when now is full
}

// New returns a limiter, or an error that names the invalid field.
func New(o Options) (*Limiter, error) {
	if !(o.PerSecond > 0) || o.PerSecond > 1e9 {
		return nil, fmt.Errorf("limit: Options.PerSecond %v: want above 0, at most 1e9", o.PerSecond)
	}
	if o.Burst < 0 || o.MaxKeys < 0 {
		return nil, fmt.Errorf("limit: Options.Burst %d, MaxKeys %d: want 0 or more", o.Burst, o.MaxKeys)
	}
	if o.Burst == 0 {
		o.Burst = int(o.PerSecond + 0.999999)
	}
	if o.MaxKeys == 0 {
		o.MaxKeys = 1 << 16
	}
	if o.Key == nil {
		o.Key = keyByAddr(o.TrustedProxies)
	}
	l := &Limiter{o: o, began: time.Now(), interval: time.Duration(float64(time.Second) / o.PerSecond),
		most: max(o.MaxKeys/(2*64), 1), seed: maphash.MakeSeed()}
	l.slack = time.Duration(o.Burst-1) * l.interval
	for i := range l.shards {
		l.shards[i].now = map[string]time.Duration{}
	}
	return l, nil
}

// keyByAddr keys by the client's address, an IPv6 one by its /64.
func keyByAddr(trusted []netip.Prefix) func(*http.Request) (string, bool) {
	return func(r *http.Request) (string, bool) {
		a := clientaddr.Of(r, trusted)
		if !a.IsValid() {
			return "", false
		}
		if a.Is6() {
			p, _ := a.Prefix(64)
			a = p.Addr()
		}
		b := a.As16()
		return string(b[:]), true
	}
}

// Allow counts a request of the client key. If it is refused, retry is the time until the next one will be allowed.
func (l *Limiter) Allow(key string) (ok bool, retry time.Duration) {
	now := time.Since(l.began)
	s := &l.shards[maphash.String(l.seed, key)>>58]
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.now[key]
	if !known {
		at = s.last[key]
	}
	at = max(at, now)
	if wait := at - now - l.slack; wait > 0 {
		return false, wait
	}
	if !known && len(s.now) >= l.most {
		s.last, s.now = s.now, make(map[string]time.Duration, l.most)
	}
	s.now[key] = at + l.interval
	return true, 0
}

// Handler passes requests within the rate on to next and refuses the others, see Options.Refused.
func (l *Limiter) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if key, limited := l.o.Key(r); limited {
			if ok, retry := l.Allow(key); !ok {
				if l.o.Refused != nil {
					l.o.Refused.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Retry-After", strconv.Itoa(int((retry+time.Second-1)/time.Second)))
				w.Header().Set("Cache-Control", "no-store")
				http.Error(w, "too many requests", http.StatusTooManyRequests)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
