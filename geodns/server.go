package geodns

import (
	"context"
	"io"
	"net/netip"
	"time"
)

// ZoneOptions of a zone made in Go.
type ZoneOptions struct {
	NS          []string      // names of the zone's servers, absolute with a final dot; required
	Hostmaster  string        // mailbox as a name; empty: "hostmaster." + origin
	Serial      uint32        // 0: 1
	TTL         time.Duration // of static records that carry none; 0: 1 hour
	NegativeTTL time.Duration // of NXDOMAIN and NODATA; 0: 1 minute
}

// Zone is the data of one zone. Build it, give it to a [Server], and do not change it afterwards: make a new one and [Server.Update].
type Zone struct{ _ struct{} }

// NewZone returns a zone with its SOA and NS records.
func NewZone(origin string, o ZoneOptions) (*Zone, error) { return nil, nil }

// ParseZone reads a standard zone file (RFC 1035 section 5). It must hold the SOA.
func ParseZone(origin string, r io.Reader, filename string) (*Zone, error) { return nil, nil }

// Add adds records in presentation format, such as "www 300 IN A 192.0.2.1"; names without a final dot are relative to the zone.
func (z *Zone) Add(records ...string) error { return nil }

// GeoOptions of a name that a [Router] answers.
type GeoOptions struct {
	TTL time.Duration // 0: 30 s; whole seconds, at least 1 s
	N   int           // most addresses in an answer; 0: 8
}

// Geo lets a router answer A and AAAA queries for a name ("@" is the zone itself, "*" a wildcard).
func (z *Zone) Geo(name string, r *Router, o GeoOptions) error { return nil }

// ServerOptions configure a [Server]. The zero value of every field is a good default.
type ServerOptions struct {
	Sockets    int           // UDP sockets that share the port (SO_REUSEPORT); 0: GOMAXPROCS on Linux, 1 elsewhere
	UDPSize    int           // largest UDP answer in bytes; 0: 1232
	TCPIdle    time.Duration // 0: 10 s
	MaxTCP     int           // TCP connections at once; 0: 1024
	MaxTCPAddr int           // of them from one client address (IPv6: /64); 0: 64
	RateLimit  int           // UDP answers per second to one client network (/24, /56); every second one beyond it is a truncated answer, the rest are dropped; 0: no limit
	NoECS      bool          // ignore EDNS client subnet
	Gate       func() bool   // false: the server hears nothing (a simulated dead node); nil: always on
	OnQuery    func(Query)   // called per query on the serving goroutine; nil costs nothing
}

// Query is what ServerOptions.OnQuery sees. Name is valid during the call only.
type Query struct {
	Client netip.AddrPort
	Subnet netip.Prefix // EDNS client subnet; zero: none
	Name   string
	Type   uint16
	Rcode  int
	TCP    bool
}

// Server is an authoritative name server on one address, UDP and TCP.
type Server struct{ _ struct{} }

// Listen binds addr ("127.0.0.1:0" takes a free port, the same for UDP and TCP) and serves the zones until Shutdown or Close.
func Listen(addr string, zones []*Zone, o ServerOptions) (*Server, error) { return nil, nil }

// Addr is the address that is served.
func (s *Server) Addr() netip.AddrPort { return netip.AddrPort{} }

// Update replaces all zones at once; queries see the old set or the new one, never a mixture. On an error nothing changes.
func (s *Server) Update(zones []*Zone) error { return nil }

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return nil }

// Shutdown stops listening, lets queries that were read be answered and waits until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return nil }

// Close ends the server at once. It is idempotent.
func (s *Server) Close() error { return nil }

// ServerStats are counters of a [Server].
type ServerStats struct {
	Queries   uint64 `metric:"queries_total,counter,DNS queries read"`
	TCP       uint64 `metric:"tcp_queries_total,counter,of them over TCP"`
	ECS       uint64 `metric:"ecs_queries_total,counter,queries with a client subnet"`
	NoError   uint64 `metric:"noerror_total,counter,answers with data"`
	NoData    uint64 `metric:"nodata_total,counter,the name exists, the type does not"`
	NXDomain  uint64 `metric:"nxdomain_total,counter,no such name"`
	Refused   uint64 `metric:"refused_total,counter,names of no zone of ours"`
	FormErr   uint64 `metric:"formerr_total,counter,malformed queries"`
	ServFail  uint64 `metric:"servfail_total,counter,answers that could not be made"`
	Truncated uint64 `metric:"truncated_total,counter,answers cut to the client's size"`
	Dropped   uint64 `metric:"dropped_total,counter,packets without an answer: not queries, or rate limited"`
	TCPConns  int    `metric:"tcp_connections,gauge,open TCP connections"`
	SlowPath  uint64 `metric:"slow_path_total,counter,queries that the fast path passed on"`
}

// Stats returns the counters.
func (s *Server) Stats() ServerStats { return ServerStats{} }
