package cdn

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tierkit/tierkit/internal/evict"
)

// host is one host's share of everything: what a bill counts, and what it takes of the memory.
type host struct {
	name              string
	requests, out, in atomic.Uint64

	// Guarded by Cache.mu.
	bytes   int64
	objects int
	policy  evict.Policy[*object] // nil: the hosts have no budgets of their own
}

// hosts knows the hosts that were asked for. Anybody can invent names of hosts, so those beyond maxHosts share one.
type hosts struct {
	known atomic.Pointer[map[string]*host] // replaced as a whole
	mu    sync.Mutex                       // guards the replacing
	other host
	each  int64 // budget; 0: none
}

const maxHosts = 1000

func (x *hosts) init(each int64) {
	x.known.Store(&map[string]*host{})
	x.each = each
	x.prepare(&x.other)
}

func (x *hosts) prepare(h *host) {
	if x.each > 0 {
		h.policy = evict.New[*object](evict.S3TK, x.each)
	}
}

// of returns the host of a Host field.
func (x *hosts) of(name string) *host {
	if h := (*x.known.Load())[name]; h != nil {
		return h
	}
	name = strings.TrimSuffix(strings.TrimSuffix(lower(name), ":80"), ":443")
	if h := (*x.known.Load())[name]; h != nil {
		return h
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	old := *x.known.Load()
	if h := old[name]; h != nil {
		return h
	}
	if len(old) >= maxHosts {
		return &x.other
	}
	h := &host{name: strings.Clone(name)}
	x.prepare(h)
	next := make(map[string]*host, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[h.name] = h
	x.known.Store(&next)
	return h
}

// HostStats is what one host had of a [Cache].
type HostStats struct {
	Host     string // lower case, without a default port; "" stands for all beyond the first 1000
	Requests uint64
	BytesOut uint64 // of bodies, to clients
	BytesIn  uint64 // of bodies, from the origin
	Bytes    int64  // in memory
	Objects  int    // in memory
}

// Hosts returns the hosts that were asked for, those with the most bytes out first.
func (c *Cache) Hosts() (out []HostStats) {
	all := []*host{&c.hosts.other}
	for _, h := range *c.hosts.known.Load() {
		all = append(all, h)
	}
	c.mu.Lock()
	for _, h := range all {
		s := HostStats{Host: h.name, Requests: h.requests.Load(), BytesOut: h.out.Load(), BytesIn: h.in.Load(),
			Bytes: h.bytes, Objects: h.objects}
		if h != &c.hosts.other || s.Requests > 0 || s.Objects > 0 {
			out = append(out, s)
		}
	}
	c.mu.Unlock()
	slices.SortFunc(out, func(a, b HostStats) int {
		return cmp.Or(cmp.Compare(b.BytesOut, a.BytesOut), cmp.Compare(a.Host, b.Host))
	})
	return out
}

// hold hands a complete object to the eviction policy. c.mu is held.
func (c *Cache) hold(o *object) {
	o.held.Store(true)
	o.host.bytes += o.size
	o.host.objects++
	c.held += o.size
	c.objects++
	c.policyOf(o.host).Add(o)
}

// letGo takes an object out of the policy, if it is there. c.mu is held.
func (c *Cache) letGo(o *object) {
	if o.held.Load() {
		c.policyOf(o.host).Remove(o)
		c.uncount(o)
	}
}

func (c *Cache) uncount(o *object) {
	o.held.Store(false)
	o.host.bytes -= o.size
	o.host.objects--
	c.held -= o.size
	c.objects--
}

func (c *Cache) policyOf(h *host) evict.Policy[*object] {
	if h.policy != nil {
		return h.policy
	}
	return c.policy
}

// victim takes an object out of the policy that has to go for the budgets' sake: of the host that is over its own, else
// of the one that has the most. ok is false when all is well, or nothing is left to evict. c.mu is held.
func (c *Cache) victim(of *host) (o *object, ok bool) {
	from := c.policy
	switch over := c.held+c.filling.Load() > c.o.MaxBytes; {
	case c.hosts.each > 0 && of != nil && of.bytes > c.hosts.each:
		from = of.policy
	case !over:
		return nil, false
	case c.hosts.each > 0:
		most := &c.hosts.other
		for _, h := range *c.hosts.known.Load() {
			if h.bytes > most.bytes {
				most = h
			}
		}
		from = most.policy
	}
	if o, ok = from.Evict(); ok {
		c.uncount(o)
	}
	return o, ok
}
