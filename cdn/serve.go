package cdn

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/httpfield"
)

// edge is a cache in front of one origin or handler.
type edge struct {
	c         *Cache
	transport http.RoundTripper     // for fills
	direct    http.Handler          // for what can't be cached
	prepare   func(r *http.Request) // makes a fill's request one for the origin; nil: nothing to do
	turns     chan struct{}         // one place for each fetch that may wait for the origin; nil: no limit
}

func (c *Cache) newEdge(e edge) *edge {
	e.c = c
	if c.o.MaxFills > 0 {
		e.turns = make(chan struct{}, c.o.MaxFills)
	}
	return &e
}

// turn waits until the origin may be asked once more, and returns what ends that.
func (x *edge) turn(ctx context.Context) (release func(), err error) {
	if x.turns == nil {
		return func() {}, nil
	}
	select {
	case x.turns <- struct{}{}:
		return func() { <-x.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// busy is whether a fetch would have to wait for its turn.
func (x *edge) busy() bool { return x.turns != nil && len(x.turns) == cap(x.turns) }

// service is one request being served.
type service struct {
	e      *edge
	w      http.ResponseWriter
	r      *http.Request
	key    []byte
	hash   uint64
	host   *host
	now    time.Time
	str    string      // key, once it is needed as a string
	in     *bodyReader // of a body that is being filled
	file   *os.File    // of a body on disk
	extent *extent     // which file is open at
	done   func()      // gives file back
	status int
	bytes  int64
}

var services = sync.Pool{New: func() any { return new(service) }}

func (x *edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0 ||
		len(r.Header["Upgrade"]) > 0 {
		x.bypass(w, r, "fwd=bypass; detail=method")
		return
	}
	s := services.Get().(*service)
	*s = service{e: x, w: w, r: r, key: x.c.o.Key(s.key[:0], r), host: x.c.hosts.of(r.Host), now: time.Now()}
	s.hash = x.c.hash(s.key)
	outcome, abort := s.serve()
	s.letGo()
	c := x.c
	c.count.outcomes[outcome].Add(1)
	if outcome != Bypass { // which counts by itself
		s.host.requests.Add(1)
	}
	if s.bytes > 0 {
		c.count.out.Add(uint64(s.bytes))
		s.host.out.Add(uint64(s.bytes))
	}
	if h := c.o.Hooks; h != nil && h.Served != nil && outcome != Bypass {
		h.Served(r, outcome, s.status, s.bytes, time.Since(s.now))
	}
	s.e, s.w, s.r, s.in, s.host, s.str = nil, nil, nil, nil, nil, ""
	services.Put(s)
	if abort {
		panic(http.ErrAbortHandler)
	}
}

func (s *service) keyString() string {
	if s.str == "" {
		s.str = string(s.key)
	}
	return s.str
}

// lookup returns the stored object that the request selects, from memory or disk.
func (s *service) lookup() (o *object, passing bool) {
	c := s.e.c
	if e := c.index.find(s.hash, s.key); e != nil {
		for _, o := range e.all() {
			if !o.gone.Load() && o.matches(s.r.Header) && s.hold(o) {
				return o, false
			}
		}
		if c.o.VaryLanguage {
			for _, o := range e.all() {
				if !o.gone.Load() && o.matchesLanguage(s.r.Header) && s.hold(o) {
					return o, false
				}
			}
		}
		passing = e.passing.Load() > s.now.UnixNano()
	}
	if c.disk != nil && !passing {
		if o = c.disk.load(s.key, s.hash, s.host, s.r.Header); o != nil && !s.hold(o) {
			o = nil
		}
		return o, false
	}
	return nil, passing
}

// serve answers a GET or HEAD.
func (s *service) serve() (outcome Outcome, abort bool) {
	c, r := s.e.c, s.r
	var ask *directives
	if cc := r.Header["Cache-Control"]; cc != nil {
		d := parseDirectives(cc)
		ask = &d
	} else if p := r.Header["Pragma"]; p != nil && parseDirectives(p).noCache {
		d := none()
		d.noCache = true
		ask = &d
	}
	o, passing := s.lookup()
	why := "uri-miss"
	if o != nil {
		switch c.usable(o, ask, s.now) {
		case useFresh:
			o.state.Visit()
			if c.disk != nil && o.onDisk.Load() == diskNo {
				c.disk.enqueue(o)
			}
			if fresh := o.life > o.ageAt(s.now); !fresh {
				outcome = Stale
			}
			return outcome, s.deliver(o, outcome, "")
		case useSWR:
			if !s.e.busy() { // else a later request asks
				s.refresh(o)
			}
			return Stale, s.deliver(o, Stale, "")
		case useMaxAge:
			why = "request"
		default:
			why = "stale"
			if o.soft.Load() && o.life > o.ageAt(s.now) && !o.noCache && !o.strict && (ask == nil || !ask.noCache) &&
				s.e.busy() {
				return Stale, s.deliver(o, Stale, "detail=origin-busy") // purged softly: better late than never
			}
		}
	}
	if ask != nil && ask.onlyIfCached {
		s.fail(http.StatusGatewayTimeout, "fwd=miss; detail=only-if-cached")
		return Failed, false
	}
	if passing || r.Method == http.MethodHead || ask != nil && ask.noStore {
		detail := "method"
		if passing {
			detail = "hit-for-miss"
		} else if ask != nil && ask.noStore {
			detail = "request-no-store"
		}
		s.e.bypass(s.w, r, "fwd=bypass; detail="+detail)
		return Bypass, false
	}
	return s.fetch(o, why)
}

// fetch waits for the origin's answer, its own or one that others asked for.
func (s *service) fetch(old *object, why string) (outcome Outcome, abort bool) {
	for range 4 {
		base := old
		if base != nil && (!base.body.complete.Load() || base.etag == "" && base.header["Last-Modified"] == nil) {
			base = nil // nothing that a 304 could confirm
		}
		f, leader := s.join(base)
		if leader {
			defer f.leave()
		}
		if !s.wait(f, leader) {
			return Failed, true // the client is gone
		}
		if f.err != nil {
			if old.rescue(s.now) {
				return Stale, s.deliver(old, Stale, "fwd="+why+"; detail=origin-failed")
			}
			if errors.Is(f.err, ErrClosed) {
				s.e.bypass(s.w, s.r, "fwd=bypass; detail=closed")
				return Bypass, false
			}
			s.fail(statusOf(f.err), "fwd="+why+"; detail="+kindOf(f.err))
			return Failed, false
		}
		if f.status >= 500 && f.status != http.StatusNotImplemented && old.rescue(s.now) {
			return Stale, s.deliver(old, Stale, "fwd="+why+"; fwd-status="+itoa(int64(f.status)))
		}
		switch {
		case f.own != nil && leader:
			return s.pass(f, why)
		case f.obj != nil && (leader || !f.private.Load() && f.obj.matches(s.r.Header)):
			if leader {
				s.in = f.first
			}
			note := "fwd=" + why + "; fwd-status=" + itoa(int64(f.status))
			if f.stored {
				note += "; stored"
			} else if f.why != "" {
				note += "; detail=" + f.why
			}
			switch {
			case !leader:
				return Collapsed, s.deliver(f.obj, Collapsed, note+"; collapsed")
			case f.fresh || f.status == http.StatusNotModified:
				return Revalidated, s.deliver(f.obj, Revalidated, note)
			}
			if f.obj.cookies != nil {
				s.w.Header()["Set-Cookie"] = f.obj.cookies
			}
			return Miss, s.deliver(f.obj, Miss, note)
		case f.obj == nil:
			// not to be shared: each asks for itself, all at once
			s.e.bypass(s.w, s.r, "fwd="+why+"; detail="+f.why)
			return Bypass, false
		}
		// another variant, or purged meanwhile: look again
		s.now = time.Now()
		if o, _ := s.lookup(); o != nil && s.e.c.usable(o, nil, s.now) == useFresh {
			return Collapsed, s.deliver(o, Collapsed, "fwd="+why+"; collapsed")
		}
	}
	s.e.bypass(s.w, s.r, "fwd=bypass; detail=variants")
	return Bypass, false
}

// wait blocks until the flight's header is there; false when the client left first. Informational answers on the way go
// to the client that began it.
func (s *service) wait(f *flight, leader bool) bool {
	for {
		select {
		case <-f.ready:
			for { // what came before the answer goes before it
				select {
				case i := <-f.informed(leader):
					s.inform(i)
				default:
					return true
				}
			}
		case <-s.r.Context().Done():
			return false
		case i := <-f.informed(leader):
			s.inform(i)
		}
	}
}

func (s *service) inform(i information) {
	h := s.w.Header()
	saved := h.Clone()
	clear(h)
	for k, v := range i.header {
		if !isHop(k) {
			h[k] = v
		}
	}
	s.w.WriteHeader(i.code)
	clear(h)
	for k, v := range saved {
		h[k] = v
	}
}

// refresh starts a fetch that nobody waits for.
func (s *service) refresh(o *object) {
	base := o
	if !o.body.complete.Load() || o.etag == "" && o.header["Last-Modified"] == nil {
		base = nil
	}
	if f, leader := s.join(base); leader {
		f.leave()
	}
}

func (s *service) fail(status int, note string) {
	s.status = status
	h := s.w.Header()
	h["Cache-Status"] = []string{s.e.c.o.Name + "; " + note}
	h["Cache-Control"] = []string{"no-store"}
	http.Error(s.w, http.StatusText(status), status)
}

func statusOf(err error) int {
	var t net.Error
	switch {
	case errors.Is(err, errLoop):
		return http.StatusLoopDetected
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &t) && t.Timeout():
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

func kindOf(err error) string {
	switch statusOf(err) {
	case http.StatusGatewayTimeout:
		return "origin-timeout"
	case http.StatusLoopDetected:
		return "loop"
	}
	return "origin-unreachable"
}

// isHop fields belong to one connection (RFC 9110 section 7.6.1).
func isHop(k string) bool {
	switch k {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization",
		"Proxy-Connection", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

func stripHop(h http.Header) {
	connection := h["Connection"]
	for k := range h {
		if isHop(k) || len(connection) > 0 && httpfield.Lists(connection, k) {
			delete(h, k)
		}
	}
}
