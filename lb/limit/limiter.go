package lb

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/clientaddr"
)

// RateLimit tells how many requests one client may make.
type RateLimit struct {
	PerSecond float64 // sustained rate; required
	Burst     int     // requests at once; 0: PerSecond rounded up
	MaxKeys   int     // clients remembered; 0: 65536. When they are more, those that are quiet are forgotten first

	Key            func(r *http.Request) (key string, limited bool) // nil: the client's address, an IPv6 one by its /64
	TrustedProxies []netip.Prefix                                   // as in Options
	// answers refused requests; nil: 429 with Retry-After
	Refused http.Handler
}

// Limiter holds clients to a rate by GCRA, the generic cell rate algorithm (ITU-T I.371): per client one time is kept,
// at which its bucket will be empty again. It is safe for concurrent use; a lock guards one of 64 parts.
type Limiter struct {
	o        RateLimit
	interval time.Duration // between two requests at the sustained rate
	slack    time.Duration // how far ahead of it a burst may run
	most     int           // keys per shard
	began    time.Time
	shards   [64]limitShard
}

type limitShard struct {
	mu   sync.Mutex // guards the maps: a key stands in one of them
	now  map[string]time.Duration
	last map[string]time.Duration // forgotten as a whole when now is full
}

// NewLimiter returns a limiter, or an error that names the invalid field.
func NewLimiter(o RateLimit) (*Limiter, error) {
	if !(o.PerSecond > 0) || o.PerSecond > 1e9 {
		return nil, fmt.Errorf("lb: RateLimit.PerSecond %v: want above 0, at most 1e9", o.PerSecond)
	}
	if o.Burst < 0 || o.MaxKeys < 0 {
		return nil, fmt.Errorf("lb: RateLimit.Burst %d, MaxKeys %d: want 0 or more", o.Burst, o.MaxKeys)
	}
	if o.Burst == 0 {
		o.Burst = int(o.PerSecond + 0.999999)
	}
	if o.MaxKeys == 0 {
		o.MaxKeys = 1 << 16
	}
	if o.Key == nil {
		nets := o.TrustedProxies
		o.Key = func(r *http.Request) (string, bool) {
			a := clientaddr.Of(r, nets)
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
	l := &Limiter{o: o, began: time.Now(), interval: time.Duration(float64(time.Second) / o.PerSecond),
		most: max(o.MaxKeys/(2*64), 1)}
	l.slack = time.Duration(o.Burst-1) * l.interval
	for i := range l.shards {
		l.shards[i].now = map[string]time.Duration{}
	}
	return l, nil
}

// Allow counts a request of a client. When it is refused, retry is when the next one will be allowed.
func (l *Limiter) Allow(key string) (ok bool, retry time.Duration) {
	now := time.Since(l.began)
	s := &l.shards[HashString(key)>>58]
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

// Handler refuses requests beyond the rate with 429 and passes the others on.
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
