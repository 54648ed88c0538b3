package lb

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Endpoint names one server to balance over. It is a value: to change one, call [Balancer.Update] with the new list.
type Endpoint struct {
	// stable name, opaque; empty: Addr. Hash policies place keys by ID, so that it outlives a change of address
	ID       string
	Addr     string  // "host:port"; required
	Scheme   string  // "http" (default), "https" (HTTP/2 when offered) or "h2c"
	Weight   float64 // share of traffic relative to the others; 0 means 1; negative is an error
	Priority int     // 0 is used first; a higher number is a backup, used when the lower ones have no healthy backend
	Zone     string  // failure domain, such as a data center; see Options.Zone
	MaxConns int     // requests at once; 0: Options.MaxConns
}

// Options configure a [Balancer]. The zero value of every field is a good default.
type Options struct {
	Policy Policy  // how to pick; nil: PowerOfTwo()
	Key    KeyFunc // what hash policies and sticky-less affinity hash; nil: the client's address

	Health  Health  // active checks; off unless Probe is set
	Outlier Outlier // passive checks: what passing requests tell; on by default
	// a backend that joins a running pool or recovers ramps from 10 % to all of its weight over this time; 0: no ramp
	SlowStart time.Duration
	// when the healthy share falls below it, health is ignored and all are used; 0: 0.5 for pools of 3 or more;
	// negative: never
	PanicThreshold float64
	// prefer endpoints of this zone while half of them or more are healthy; empty: all alike
	Zone   string
	Subset Subset // use only some of many endpoints from this balancer; off by default

	MaxConns     int           // requests at once per backend; 0: no limit
	MaxQueue     int           // requests that wait when every backend is at its limit; 0: 1024; negative: none wait
	QueueTimeout time.Duration // longest wait there, then ErrOverloaded; 0: 1 s

	Adaptive *Adaptive // limits what is in flight by latency and sheds the rest; nil: off

	Retry    Retry    // on by default, only when safe
	Hedge    Hedge    // a second request for one that is slow; off by default
	Timeouts Timeouts // per phase

	AllowedNets []netip.Prefix // backends that resolve outside of these are refused; empty: all allowed
	MaxIdle     int            // idle connections kept per backend; 0: 256; negative: none

	// Dial opens connections to backends, for requests and probes; nil: a net.Dialer. A connection that wraps another
	// should offer it by NetConn() net.Conn or syscall.Conn: else it can't be looked at before it is used again, and
	// only idempotent requests use it twice.
	Dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	TLS   *tls.Config // for "https" backends; mutual TLS goes here
	Hooks *Hooks      // nil: none
	// gets warnings, at most one a minute and cause, see Stats for the counts; nil: slog.Default
	Logger *slog.Logger
}

// ProxyOptions configure a [Handler], and the front. The zero value of every field is a good default.
type ProxyOptions struct {
	// Sticky binds clients to backends by a cookie. Nil means off.
	Sticky *Sticky
	// TrustedProxies are the networks whose X-Forwarded-* and Forwarded headers are believed. Empty means none,
	// loopback included.
	TrustedProxies []netip.Prefix
	// MaxBody is the largest request body in bytes; a larger one is answered with 413. Zero means no limit.
	MaxBody int64
	// Error writes the answer to a request that has none, see the errors of this package. Nil means a short text with
	// 400, 413, 502, 503 or 504. It runs on the goroutine of the request.
	Error func(http.ResponseWriter, *http.Request, error)
	// HeapReserve is how much memory, in bytes, the process of a Handler sets aside and never touches, so that it takes
	// no page but the collector of a process that holds little else runs seldom: once per HeapReserve of garbage
	// instead of once per 4 MiB, at GOGC=100. So the process grows by up to about as much, in garbage. The largest of
	// all balancers of a process counts, not their sum. None is held under a memory limit (GOMEMLIMIT) of less than
	// eight times as much, as the limit is when Handler is called, and none after Close. 0: 16 MiB; negative: none.
	HeapReserve int
}

// Health tells how backends are probed. Unknown counts as up, so that a new pool serves at once.
type Health struct {
	Probe    Probe         // nil: no active checks
	Interval time.Duration // 0: 1 s, plus and minus 10 %
	Timeout  time.Duration // 0: the smaller of Interval and 1 s
	Rise     int           // successes in a row until up; 0: 2
	Fall     int           // failures in a row until down; 0: 3
	MinHold  time.Duration // a state lasts at least this long; 0: no minimum
}

// Outlier ejects backends whose live requests fail. It needs no probe and reacts within a few requests.
type Outlier struct {
	Disabled    bool
	Consecutive int           // failures in a row until ejection; 0: 5. A failure is a transport error, 502, 503 or 504
	ErrorRate   float64       // share of failures in a window that also ejects; 0: 0.5; negative: off
	MinRequests int           // requests in the window before ErrorRate counts; 0: 20
	Window      time.Duration // 0: 10 s
	Ejection    time.Duration // first ejection; the n-th in a row lasts n times as long; 0: 5 s
	MaxEjection time.Duration // 0: 1 minute
	MaxShare    float64       // of the pool that may be ejected at once, at least one of two or more; 0: 0.5
}

// Subset lets each of many balancers use Size of the endpoints, chosen so that every endpoint gets a like number of
// balancers.
type Subset struct {
	Size int    // 0: all endpoints
	ID   string // this balancer's own name; required when Size is set
}

// Retry tells when a request that failed is tried again, on another host. A request is tried again only when it
// provably was not processed (the connection was refused, or the backend had closed an idle connection before a byte
// was sent) or when it is idempotent and no byte of an answer was passed on. An ambiguous POST is a 502, never a
// resend.
type Retry struct {
	Max int // attempts after the first; 0: 2; negative: none
	// retries as a share of requests; up to 500 are saved up, 100 stand at the start; 0: 0.2; negative: no limit
	Budget     float64
	Idempotent func(*http.Request) bool // nil: GET, HEAD, OPTIONS, TRACE, PUT, DELETE, or an Idempotency-Key header
	// answers that count as failed and are tried again when idempotent; nil: 502, 503 and 504 are not retried
	Statuses []int
	// bodies up to this many bytes are kept to be sent again; 0: 64 KiB; negative: none
	MaxBody int64
}

// Timeouts of the phases of one attempt. Negative switches one off.
type Timeouts struct {
	Dial     time.Duration // connecting, TLS included; 0: 2 s
	Header   time.Duration // from the request sent to the answer's header; 0: 30 s
	Idle     time.Duration // gap between two reads of the answer's body; 0: 60 s
	KeepIdle time.Duration // an unused connection is closed after this; 0: 30 s
	Expect   time.Duration // wait for 100 Continue before the body is sent anyway; 0: 1 s
	Tunnel   time.Duration // idle time of an upgraded or TCP connection; 0: 10 minutes
}

// Probe checks one backend: nil means that it serves. It must honor ctx; a panic counts as an error.
type Probe func(ctx context.Context, t Target) error

// Target is what a [Probe] checks.
type Target struct {
	Endpoint
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) // the balancer's own dialer
	TLS  *tls.Config                                                       // for "https"; may be nil
}
