package cdn

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// flight is one fetch that may fill the cache. It runs detached from the client that began it; all who ask for the same
// meanwhile wait for its header and then read the body as it comes.
type flight struct {
	key     string
	hash    uint64
	host    *host
	left    chan struct{} // closed when the client that began it is gone
	leaving sync.Once
	info    chan information // informational answers, for that client
	ready   chan struct{}    // closed when what follows is set
	obj     *object          // for all who match it
	fresh   bool             // obj was confirmed by a 304
	first   *bodyReader      // of obj, held for the client that began it, so that nothing is let go before it came
	stored  bool
	why     string         // not stored because
	own     *http.Response // for the client that began it alone: not to be stored
	status  int
	err     error

	part    *object     // known already: only the rest is asked for
	purged  atomic.Bool // what it brings must not be stored
	private atomic.Bool // nobody may join any more
	tagGen  uint64      // the purges by tag that it may have missed came after this
}

// flights knows all fetches that run, so that a purge reaches them.
type flights struct {
	mu   sync.Mutex // guards what follows
	m    map[*flight]struct{}
	gen  uint64
	tags map[string]uint64 // purges by tag while fetches were running
}

func (f *flights) init() { f.m, f.tags = map[*flight]struct{}{}, map[string]uint64{} }

func (f *flights) add(x *flight) {
	f.mu.Lock()
	x.tagGen = f.gen
	f.m[x] = struct{}{}
	f.mu.Unlock()
}

func (f *flights) remove(x *flight) {
	f.mu.Lock()
	if delete(f.m, x); len(f.m) == 0 {
		clear(f.tags)
	}
	f.mu.Unlock()
}

// purge marks the fetches that match.
func (f *flights) purge(match func(key string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for x := range f.m {
		if match(x.key) {
			x.purged.Store(true)
			x.private.Store(true)
		}
	}
}

// purgeTag: the tags of a fetch without a header yet are not known. Nobody joins it any more, and its answer is looked
// at when it comes.
func (f *flights) purgeTag(tag string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gen++
	if len(f.m) > 0 {
		f.tags[tag] = f.gen
	}
	for x := range f.m {
		x.private.Store(true)
	}
}

func (f *flights) tagged(x *flight, tags []string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(tags, func(t string) bool { return f.tags[t] > x.tagGen })
}

// join returns the running fetch for a request, or begins one. leader is whether it was begun here.
func (s *service) join(old *object) (f *flight, leader bool) {
	c := s.e.c
	e := c.index.lock(s.hash, s.keyString())
	defer func() { c.index.unlock(e, s.hash, s.now) }()
	sel := selectorsOf(nil, e.vary, s.r.Header)
	if f := e.flights[sel]; f != nil && !f.private.Load() {
		return f, false
	}
	f = &flight{key: e.key, hash: s.hash, host: s.host, left: make(chan struct{}), ready: make(chan struct{})}
	if !c.begin() {
		f.err = ErrClosed
		close(f.ready)
		return f, true
	}
	if e.flights == nil {
		e.flights = map[string]*flight{}
	}
	e.flights[sel] = f
	if e.part != nil && old == nil && e.part.matches(s.r.Header) {
		f.part = e.part
	}
	c.fetches.add(f)
	c.count.fills.Add(1)
	c.count.inFlight.Add(1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.r.Context()), c.o.FillTimeout)
	stop := context.AfterFunc(c.ctx, cancel)
	req := s.e.fillRequest(f.trace(ctx), s.r, old)
	ask := s.r.Header.Clone()
	edge := s.e
	go func() {
		defer c.work.Done()
		defer func() {
			stop()
			cancel()
			c.fetches.remove(f)
			c.count.inFlight.Add(-1)
		}()
		edge.run(f, e, sel, req, ask, old)
	}()
	return f, true
}

// settle publishes the flight's header and lets the waiters go. keep is whether later requests may join (they find the
// object instead).
func (c *Cache) settle(f *flight, e *entry, sel string, publish func(e *entry)) {
	now := time.Now()
	l := c.index.lock(f.hash, f.key)
	if l.flights[sel] == f {
		if delete(l.flights, sel); len(l.flights) == 0 {
			l.flights = nil
		}
	}
	if publish != nil {
		publish(l)
	}
	close(f.ready)
	c.index.unlock(l, f.hash, now)
}

// run makes the fetch of a flight.
func (x *edge) run(f *flight, e *entry, sel string, req *http.Request, ask http.Header, old *object) {
	c := x.c
	release, err := x.turn(req.Context())
	asked := time.Now()
	var res *http.Response
	if err == nil {
		res, err = x.roundTrip(f, req)
		release()
	}
	received := time.Now()
	if err != nil {
		f.err = err
		c.settle(f, e, sel, nil)
		return
	}
	f.status = res.StatusCode
	stripHop(res.Header)
	if res.StatusCode == http.StatusNotModified && old != nil {
		res.Body.Close()
		f.obj, f.fresh = c.refreshed(old, res.Header, ask, asked, received)
		f.stored = f.why == ""
		c.settle(f, e, sel, func(e *entry) {
			if f.purged.Load() || old.gone.Load() || !f.fresh || c.fetches.tagged(f, f.obj.tags) {
				f.obj.gone.Store(true)
				f.stored = false
				return
			}
			old.next.Store(f.obj)
			c.store(e, f.obj)
		})
		if f.stored {
			c.keep(f.obj, 0)
		}
		return
	}
	o := &object{key: f.key, hash: f.hash, host: f.host, status: res.StatusCode, header: res.Header,
		length: res.ContentLength, body: &body{}}
	if f.part != nil {
		o = f.part.continued(res)
	} else if res.StatusCode == http.StatusPartialContent {
		x.c.begin206(f, res, o, ask, asked, received)
	}
	o.tags = c.tagsOf(o.header)
	f.why = c.judge(o, ask, asked, received)
	o.etag = firstOf(o.header["Etag"])
	if o.status == http.StatusNoContent {
		o.length = 0
	}
	if o.length >= 0 && o.status != http.StatusNoContent {
		o.header["Content-Length"] = []string{itoa(o.length)}
	} else {
		delete(o.header, "Content-Length")
	}
	if len(res.Trailer) > 0 && f.why == "" {
		f.why = "trailers" // a hit could not show them
	}
	if f.why == "" && f.part == nil && c.sliceable(o, res) {
		o.slices = randomID()
	} else if o.length > c.o.MaxObject {
		f.why = "too-large"
	}
	if _, ok := o.header["Content-Type"]; !ok {
		o.header["Content-Type"] = nil // net/http must not guess
	}
	// A failure is passed to all who wait, so that a failing origin is not asked by each of them; so is what may not be
	// stored for a reason that lies in the request of each.
	share := f.why == "" || res.StatusCode >= 500 && o.length >= 0 && o.length <= 64<<10 &&
		ask["Authorization"] == nil && ask["Cookie"] == nil
	if !share {
		f.own = res
		// The first client gets it as it comes, if it is still there; the others are let go at once, and those to come
		// are not held up for a while.
		res.Header = o.header
		if o.cookies != nil {
			res.Header["Set-Cookie"] = o.cookies
		}
		done := make(chan struct{})
		res.Body = &notifyClose{ReadCloser: res.Body, done: done}
		c.settle(f, e, sel, func(e *entry) {
			if c.o.HitForMiss > 0 && ask["Cache-Control"] == nil {
				e.passing.Store(received.Add(c.o.HitForMiss).UnixNano())
			}
		})
		select {
		case <-done: // the context must live until the client has read it
		case <-f.left:
			res.Body.Close()
		case <-req.Context().Done(): // the client's next read fails
			select {
			case <-done:
			case <-f.left:
				res.Body.Close()
			}
		}
		return
	}
	f.obj = o
	if f.why != "" {
		o.gone.Store(true) // for those who wait now, and nobody else
	}
	if o.slices != "" { // its slices are fetched as they are wanted
		res.Body.Close()
		o.body = bodyOf()
	} else {
		f.first, _ = o.body.reader(0)
	}
	c.settle(f, e, sel, func(e *entry) {
		if f.why == "" && !f.purged.Load() && !c.fetches.tagged(f, o.tags) {
			f.stored = true
			c.store(e, o)
			e.passing.Store(0)
		} else {
			o.gone.Store(true)
		}
	})
	select {
	case <-f.left:
		f.release()
	default:
	}
	stored := f.stored // f is read by others from here on
	if o.slices != "" {
		if stored {
			c.keep(o, 0)
		}
		return
	}
	counted := int64(0)
	defer func() { c.filling.Add(-counted) }()
	err = o.body.fill(io.TeeReader(res.Body, byteCounter{&c.count.in, &f.host.in}), o.length, func(total int64) bool {
		c.filling.Add(total - counted)
		counted = total
		if total > c.o.MaxObject {
			if stored {
				stored = false
				c.remove(o)
			}
			return false
		}
		c.shrink(nil)
		return true
	})
	broken := err != nil && stored
	if broken {
		c.remove(o) // before its readers learn that it broke off: one that asks again must not find it
		stored = false
	}
	o.body.finish(err)
	res.Body.Close()
	if broken && !o.body.window && resumable(o) && !f.purged.Load() && !c.fetches.tagged(f, o.tags) {
		c.keepPart(o, counted)
		counted = 0
	} else if err == nil && stored && !o.body.window {
		if o.length < 0 {
			o = c.sized(o)
		}
		if f.part != nil {
			c.remove(f.part) // it is whole now
		}
		c.keep(o, counted)
		counted = 0
	} else if stored {
		c.remove(o) // broken off: those who read it see that, nobody else gets it
		stored = false
	}
	if h := c.o.Hooks; h != nil && h.Filled != nil {
		h.Filled(f.key, f.status, o.body.size(), time.Since(asked), stored)
	}
}

func firstOf(v []string) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

type notifyClose struct {
	io.ReadCloser
	once sync.Once
	done chan struct{}
}

func (n *notifyClose) Close() error {
	err := n.ReadCloser.Close()
	n.once.Do(func() { close(n.done) })
	return err
}

type byteCounter [2]*atomic.Uint64

func (b byteCounter) Write(p []byte) (int, error) {
	for _, n := range b {
		n.Add(uint64(len(p)))
	}
	return len(p), nil
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
