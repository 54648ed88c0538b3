package lb

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Errors that a caller can act on; test with errors.Is.
var (
	ErrNoBackend  = errors.New("lb: no backend available")          // the pool is empty, or all are draining
	ErrOverloaded = errors.New("lb: every backend is at its limit") // waited in the queue for QueueTimeout, or the queue is full
	ErrUnknown    = errors.New("lb: unknown backend")
	ErrClosed     = errors.New("lb: closed")
)

// Balancer picks backends. Create one with [New]; it is safe for concurrent use.
type Balancer struct {
	_ struct{}
}

// New returns a running balancer over endpoints, which may be empty until the first [Balancer.Update]. Invalid options are an error that
// names the field. Close it to stop its checks.
func New(endpoints []Endpoint, o Options) (*Balancer, error) {
	return nil, errors.New("lb: not built yet")
}

// Update replaces the endpoints. Backends whose ID stays keep their connections, state and counters; those that left
// finish their requests and get no new ones. On an error nothing changes.
func (b *Balancer) Update(endpoints []Endpoint) error { return nil }

// Drain stops new picks of a backend and waits until its requests have ended or ctx has. It stays drained until
// [Balancer.Undrain], also across updates. It returns ErrUnknown, or ctx's error when requests are still in flight.
func (b *Balancer) Drain(ctx context.Context, id string) error { return nil }

// Undrain lets a drained backend take requests again, with slow start.
func (b *Balancer) Undrain(id string) error { return nil }

// Pick chooses a backend and counts a request in flight on it until [Lease.Done]. It waits when every backend is at its
// connection limit. Errors: ErrNoBackend, ErrOverloaded, ErrClosed, or ctx's.
func (b *Balancer) Pick(ctx context.Context, k Key) (Lease, error) { return Lease{}, nil }

// Lease is one request on one backend.
type Lease struct {
	b     *Backend
	start time.Duration
}

// Backend that was picked.
func (l Lease) Backend() *Backend { return l.b }

// Done ends the request and tells how it went. It must be called exactly once.
func (l Lease) Done(r Result) {}

// Result of one attempt on one backend.
type Result struct {
	Err     error         // transport error: the backend gave no proper answer
	Status  int           // HTTP status, 0 where there is none
	Latency time.Duration // until the answer's header; 0: the time from Pick to Done
	Ignored bool          // says nothing about the backend, such as a client that left
}

// Handler is a reverse proxy over the pool. See the package's documentation of conformance.
func (b *Balancer) Handler() http.Handler { return nil }

// RoundTripper balances a client's requests: the URL's host is replaced by the picked backend's address, the Host
// header stays what the request says. base does the transport; nil: a transport made for it. Retries follow [Retry].
func (b *Balancer) RoundTripper(base http.RoundTripper) http.RoundTripper { return nil }

// ServeTCP forwards the connections that l accepts, each to one backend, until ctx ends or l fails; connections in
// flight are drained for up to Timeouts.Tunnel after that.
func (b *Balancer) ServeTCP(ctx context.Context, l net.Listener) error { return nil }

// Backends returns all backends in the order of their IDs.
func (b *Balancer) Backends() []*Backend { return nil }

// Stats returns counters and gauges, overall and per backend.
func (b *Balancer) Stats() Stats { return Stats{} }

// AdminHandler shows the state of every backend as JSON (GET /), and drains and undrains (POST /drain?id=, POST
// /undrain?id=) when auth allows the request. A nil auth refuses all changes.
func (b *Balancer) AdminHandler(auth func(*http.Request) bool) http.Handler { return nil }

// Close stops checks and closes idle connections; requests in flight end on their own. It is idempotent.
func (b *Balancer) Close() error { return nil }

// Backend is one server of the pool as the balancer sees it.
type Backend struct {
	ep Endpoint
}

// ID of the backend, stable across updates.
func (b *Backend) ID() string { return b.ep.ID }

// Endpoint as it was given, with defaults filled in.
func (b *Backend) Endpoint() Endpoint { return b.ep }

// Weight at this moment: lower than the endpoint's during slow start.
func (b *Backend) Weight() float64 { return b.ep.Weight }

// InFlight is the number of requests on it now.
func (b *Backend) InFlight() int { return 0 }

// Latency is the peak-sensitive mean that PeakEWMA uses; 0 when unknown.
func (b *Backend) Latency() time.Duration { return 0 }

// State of the backend now.
func (b *Backend) State() BackendState { return StateUp }

// BackendState is where a backend stands.
type BackendState uint8

const (
	StateUp       BackendState = iota // may be picked; unknown counts as up
	StateDown                         // active checks fail
	StateEjected                      // passive checks ejected it for a while
	StateDraining                     // gets no new requests
	StateRemoved                      // left the pool by Update
)

func (s BackendState) String() string {
	return [...]string{"up", "down", "ejected", "draining", "removed"}[s]
}

// Stats of a [Balancer].
type Stats struct {
	Requests  uint64 `metric:"requests_total,counter,requests that were given to a backend or refused"`
	Retries   uint64 `metric:"retries_total,counter,attempts after the first"`
	NoRetry   uint64 `metric:"retry_budget_exhausted_total,counter,retries that the budget refused"`
	Refused   uint64 `metric:"refused_total,counter,requests refused because no backend was available or all were full"`
	Queued    int    `metric:"queued,gauge,requests waiting for a backend"`
	InFlight  int    `metric:"in_flight,gauge,requests on backends"`
	Available int    `metric:"backends_available,gauge,backends that may be picked"`
	Panic     bool   `metric:"panic,gauge,1 while health is ignored because too few backends are healthy"`
	Ejections uint64 `metric:"ejections_total,counter,passive ejections"`
	Backends  []BackendStats
}

// BackendStats are the series of one backend.
type BackendStats struct {
	ID       string `label:"backend"`
	State    string
	Weight   float64       `metric:"backend_weight,gauge,weight now"`
	Up       bool          `metric:"backend_up,gauge,1 when it may be picked"`
	InFlight int           `metric:"backend_in_flight,gauge,requests on it"`
	Requests uint64        `metric:"backend_requests_total,counter,attempts"`
	Failures uint64        `metric:"backend_failures_total,counter,failed attempts"`
	Latency  time.Duration `metric:"backend_latency_seconds,gauge,peak-sensitive mean latency"`
	Idle     int           `metric:"backend_idle_connections,gauge,idle connections kept"`
	Dials    uint64        `metric:"backend_dials_total,counter,connections opened"`
}

// KeyFunc derives the key of an HTTP request; ok false means none.
type KeyFunc func(r *http.Request, client netip.Addr) (hash uint64, ok bool)

// KeyClient keys by the client's address, an IPv6 one by its /64. The default.
func KeyClient() KeyFunc { return nil }

// KeyHeader keys by a request header.
func KeyHeader(name string) KeyFunc { return nil }

// KeyCookie keys by a cookie's value.
func KeyCookie(name string) KeyFunc { return nil }

// KeyPath keys by the URL's path.
func KeyPath() KeyFunc { return nil }

// HashString hashes a key as all balancers of this version do (xxHash64).
func HashString(s string) uint64 { return 0 }

// ClientAddr is the address of the client of a request that came through proxies in trusted: the last hop that is not
// trusted, by X-Forwarded-For read from its end. With an empty list it is the connection's peer.
func ClientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr { return netip.Addr{} }

// HTTPProbe asks the backend for path and wants a status from 200 to 399.
func HTTPProbe(path string) Probe { return nil }

// TCPProbe wants a connection to be accepted.
func TCPProbe() Probe { return nil }

// Sticky binds a client to a backend with a signed cookie that names the backend by an opaque id.
type Sticky struct {
	Name     string        // of the cookie; empty: "lb"
	Keys     []StickyKey   // the first signs, all verify; empty: a random key, so that bindings end with the process
	TTL      time.Duration // 0: a session cookie, valid for 24 h
	Path     string        // empty: "/"
	Domain   string
	Secure   bool
	SameSite http.SameSite // 0: Lax
}

// StickyKey signs cookies. Secret is at least 32 bytes.
type StickyKey struct {
	ID     string
	Secret []byte
}
