package geodns

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// ServerOptions configure a [Server]. The zero value of every field is a good default.
type ServerOptions struct {
	Sockets    int           // UDP sockets that share the port (SO_REUSEPORT); 0: GOMAXPROCS on Linux, 1 elsewhere
	UDPSize    int           // largest UDP answer in bytes, 512 to 4096; 0: 1232
	TCPIdle    time.Duration // 0: 10 s
	MaxTCP     int           // TCP connections at once; 0: 1024
	MaxTCPAddr int           // of them from one client address (IPv6: /64); 0: 64
	// UDP answers per second to one client network (/24, /56); of those beyond it every second one is truncated, so
	// that a real client comes by TCP, and the rest are dropped; 0: no limit
	RateLimit int
	// 16 bytes, the same on all servers of a name: the secret of DNS cookies; empty: a random one
	Cookies []byte
	NoECS   bool        // ignore EDNS client subnet
	Gate    func() bool // false: the server hears nothing (a simulated dead node); nil: always on
	OnQuery func(Query) // called per query on the serving goroutine; nil costs nothing
}

// Query is what ServerOptions.OnQuery sees.
type Query struct {
	Client netip.AddrPort
	Subnet netip.Prefix // EDNS client subnet; zero: none
	Name   string
	Type   uint16
	Rcode  int
	TCP    bool
}

// Server is an authoritative name server on one address, UDP and TCP. It answers from an immutable snapshot: queries
// take no lock and, without OnQuery, do not allocate.
type Server struct {
	o     ServerOptions
	zones atomic.Pointer[zoneSet]
	addr  netip.AddrPort
	udp   []*net.UDPConn
	tcp   *net.TCPListener
	limit *limiter
	jar   *cookieJar

	running sync.WaitGroup
	done    chan struct{}
	ending  atomic.Bool
	closing sync.Once

	mu      sync.Mutex // guards what follows
	serving map[*worker]bool
	past    [counts]uint64 // of workers that have ended
	conns   map[*net.TCPConn]netip.Addr
	from    map[netip.Addr]int
}

// Listen binds addr ("127.0.0.1:0" takes a free port, the same for UDP and TCP) and serves the zones until Shutdown or
// Close. The zones' errors are found here.
func Listen(addr string, zones []*Zone, o ServerOptions) (*Server, error) {
	switch {
	case o.UDPSize == 0:
		o.UDPSize = 1232
	case o.UDPSize < 512 || o.UDPSize > 4096:
		return nil, fmt.Errorf("geodns: ServerOptions.UDPSize %d: want 512 to 4096", o.UDPSize)
	}
	if o.Sockets < 0 || o.MaxTCP < 0 || o.MaxTCPAddr < 0 || o.RateLimit < 0 || o.TCPIdle < 0 {
		return nil, errors.New("geodns: ServerOptions: Sockets, MaxTCP, MaxTCPAddr, RateLimit and TCPIdle: want 0 or more")
	}
	if o.Sockets == 0 {
		if o.Sockets = 1; reusePort {
			o.Sockets = runtime.GOMAXPROCS(0)
		}
	}
	if !reusePort {
		o.Sockets = 1
	}
	switch len(o.Cookies) {
	case 16:
	case 0:
		o.Cookies = make([]byte, 16)
		rand.Read(o.Cookies)
	default:
		return nil, fmt.Errorf("geodns: ServerOptions.Cookies: %d bytes, want 16", len(o.Cookies))
	}
	if o.TCPIdle == 0 {
		o.TCPIdle = 10 * time.Second
	}
	if o.MaxTCP == 0 {
		o.MaxTCP = 1024
	}
	if o.MaxTCPAddr == 0 {
		o.MaxTCPAddr = 64
	}
	set, err := compileZones(zones)
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, done: make(chan struct{}), conns: map[*net.TCPConn]netip.Addr{}, from: map[netip.Addr]int{},
		serving: map[*worker]bool{}}
	s.zones.Store(set)
	s.jar = newCookieJar(o.Cookies)
	if o.RateLimit > 0 {
		s.limit = newLimiter(o.RateLimit)
	}
	if err := s.bind(addr); err != nil {
		return nil, fmt.Errorf("geodns: %w", err)
	}
	for _, c := range s.udp {
		s.running.Go(func() { s.serveUDP(c) })
	}
	s.running.Go(s.serveTCP)
	go func() {
		s.running.Wait()
		close(s.done)
	}()
	return s, nil
}

// bind takes one port for both protocols; a free one that only one of them can have is tried again.
func (s *Server) bind(addr string) (err error) {
	for try := 0; ; try++ {
		if err = s.bindOnce(addr); err == nil {
			return nil
		}
		s.unbind()
		if _, port, e := net.SplitHostPort(addr); e != nil || port != "0" || try == 10 {
			return err
		}
	}
}

func (s *Server) bindOnce(addr string) error {
	lc := net.ListenConfig{}
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	s.tcp = l.(*net.TCPListener)
	s.addr = l.Addr().(*net.TCPAddr).AddrPort()
	lc.Control = reuseControl(s.o.Sockets > 1)
	for range s.o.Sockets {
		pc, err := lc.ListenPacket(context.Background(), "udp", s.tcp.Addr().String())
		if err != nil {
			return err
		}
		c := pc.(*net.UDPConn)
		c.SetReadBuffer(4 << 20) // bursts; the kernel may grant less
		s.udp = append(s.udp, c)
	}
	return nil
}

func (s *Server) unbind() {
	if s.tcp != nil {
		s.tcp.Close()
	}
	for _, c := range s.udp {
		c.Close()
	}
	s.tcp, s.udp = nil, nil
}

// Addr is the address that is served.
func (s *Server) Addr() netip.AddrPort {
	return netip.AddrPortFrom(s.addr.Addr().Unmap(), s.addr.Port())
}

// Update replaces all zones at once; queries see the old set or the new one, never a mixture. On an error nothing
// changes.
func (s *Server) Update(zones []*Zone) error {
	set, err := compileZones(zones)
	if err != nil {
		return err
	}
	s.zones.Store(set)
	return nil
}

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Shutdown stops listening, lets queries that were read be answered, and waits for that until ctx ends; then it closes.
func (s *Server) Shutdown(ctx context.Context) error {
	s.ending.Store(true)
	s.tcp.Close()
	now := time.Now()
	for _, c := range s.udp {
		c.SetReadDeadline(now)
	}
	s.mu.Lock()
	for c := range s.conns {
		c.SetReadDeadline(now)
	}
	s.mu.Unlock()
	select {
	case <-s.done:
		return s.Close()
	case <-ctx.Done():
		s.Close()
		return ctx.Err()
	}
}

// Close ends the server at once. It is idempotent.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.ending.Store(true)
		s.tcp.Close()
		for _, c := range s.udp {
			c.Close()
		}
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
	})
	<-s.done
	return nil
}

// handle answers one packet into out (of enough capacity) and returns nil when there is nothing to say. It runs on the
// goroutine of w.
func (s *Server) handle(w *worker, packet, out []byte, from netip.AddrPort, tcp bool) []byte {
	if s.o.Gate != nil && !s.o.Gate() {
		return nil
	}
	q := &w.q
	w.tally[countQueries]++
	v := q.parse(packet)
	if v == drop {
		w.tally[countDropped]++
		return nil
	}
	if s.o.NoECS {
		q.ecs = false
	}
	limit := 65535
	if tcp {
		w.tally[countTCP]++
	} else if limit = 512; q.edns {
		limit = min(max(q.size, 512), s.o.UDPSize)
	}
	client := from.Addr().Unmap().WithZone("")
	slip, known := false, false
	if q.cookie && v == parsed {
		now := time.Now()
		known = s.jar.good(q, client, now)
		s.jar.bake(&q.server, q.client, client, uint32(now.Unix()))
	}
	if s.limit != nil && !tcp && !known {
		switch s.limit.take(client, time.Now()) {
		case limitDrop:
			w.tally[countDropped]++
			return nil
		case limitSlip:
			slip = true
		}
	}
	if q.ecs {
		w.tally[countECS]++
	}
	r := s.zones.Load().answer(q, v, packet, client, out, limit)
	if slip {
		r.tc = true
		r.out, r.an, r.ns, r.ar = r.out[:q.end], 0, 0, 0
		r.finish(packet)
	}
	w.tally[r.outcome()]++
	if s.o.OnQuery != nil {
		name := "."
		if q.length > 0 {
			name, _, _ = dns.UnpackDomainName(q.name[:q.length], 0)
		}
		info := Query{Client: from, Name: strings.ToLower(name), Type: q.typ, Rcode: r.rcode, TCP: tcp}
		if q.ecs && q.subnet.IsValid() {
			info.Subnet = netip.PrefixFrom(q.subnet, q.source)
		}
		s.o.OnQuery(info)
	}
	return r.out
}
