package geodns

import (
	"encoding/binary"
	"math"
	"net/netip"
	"sync"

	"github.com/tierkit/tierkit/internal/placement"
)

// plan is what a policy says, compiled: each address has a class, and each class its tiers. It knows nothing of health, so that a
// failure remaps a small table and not the ranges.
type plan struct {
	locator Locator
	table   *Table // addresses to classes; nil when the locator is not a Table
	classes [][][]Choice
	policy  Policy
	dcs     []DC

	mu    sync.RWMutex // guards what follows: the classes of locations that a dynamic locator has shown
	known map[Location]int
	extra [][][]Choice
	keys  map[string]int
}

const maxKnown = 1 << 14 // distinct locations remembered of a dynamic locator

func compile(dcs []DC, p Policy, l Locator) (*plan, error) {
	c := &plan{locator: l, policy: p, dcs: dcs, keys: map[string]int{}, known: map[Location]int{}}
	class := func(at Location) (int, error) {
		tiers := p.Tiers(at, dcs)
		if err := check(tiers, len(dcs)); err != nil {
			return 0, err
		}
		key := tiersKey(tiers)
		i, ok := c.keys[key]
		if !ok {
			i = len(c.classes)
			c.classes = append(c.classes, tiers)
			c.keys[key] = i
		}
		return i, nil
	}
	if _, err := class(Location{}); err != nil { // class 0: unknown
		return nil, err
	}
	t, ok := l.(*Table)
	if !ok {
		return c, nil
	}
	of := make([]uint16, len(t.at))
	for i, at := range t.at {
		k, err := class(at)
		if err != nil {
			return nil, err
		}
		of[i] = uint16(k)
	}
	c.table = &Table{v4: remap(t.v4, of), v6: remap(t.v6, of)}
	c.table.first4 = firsts(c.table.v4.start, 16)
	c.table.first6 = firsts(c.table.v6.start, 48)
	return c, nil
}

// remap gives each range its class and joins neighbours of one class: the fewer ranges, the wider the scopes.
func remap[T uint32 | uint64](r ranges[T], class []uint16) (out ranges[T]) {
	for i, s := range r.start {
		if k := class[r.of[i]]; i == 0 || k != out.of[len(out.of)-1] {
			out.start, out.of = append(out.start, s), append(out.of, k)
		}
	}
	return out
}

// class of an address, and the length of the prefix that shares it.
func (c *plan) class(a netip.Addr) (class, length int) {
	if c.table != nil {
		i, n := c.table.index(a)
		return int(i), n
	}
	if c.locator == nil {
		return 0, 0
	}
	at, p := c.locator.Locate(a)
	length = max(p.Bits(), 0)
	c.mu.RLock()
	i, ok := c.known[at]
	c.mu.RUnlock()
	if ok {
		return i, length
	}
	tiers := c.policy.Tiers(at, c.dcs)
	if check(tiers, len(c.dcs)) != nil {
		return 0, length
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := tiersKey(tiers)
	if i, ok = c.keys[key]; !ok {
		i = 0 // seen for the first time after the last rebuild: until the next one such an order serves as unknown does
		if len(c.extra) < maxKnown {
			i = len(c.classes) + len(c.extra)
			c.extra = append(c.extra, tiers)
			c.keys[key] = i
		}
	}
	if len(c.known) < maxKnown {
		c.known[at] = i
	}
	return i, length
}

// tiers of a class that class has returned.
func (c *plan) tiers(class int) [][]Choice {
	if class < len(c.classes) {
		return c.classes[class]
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.extra[class-len(c.classes)]
}

// live is a plan under the present health: immutable, swapped as a whole.
type live struct {
	plan   *plan
	dcs    []liveDC
	routes [][]stage // by class
	reason Reason    // of every decision, when none is healthy
	static []netip.Addr
	sticky [2]int // prefix lengths, IPv4 and IPv6
	spill  bool
}

type liveDC struct {
	name     string
	hash     uint64
	up       bool
	share    float64 // of its traffic: below 1 while it ramps
	capacity float64
	addrs    []netip.Addr
}

// stage is one tier's healthy centres. pass is the share of clients that it keeps; the others go on to the next stage.
type stage struct {
	choices []Choice
	pass    float64
	reason  Reason
}

func (v *live) compile() {
	for _, tiers := range v.plan.classes {
		v.routes = append(v.routes, v.stages(tiers))
	}
}

func (v *live) stages(tiers [][]Choice) (out []stage) {
	for n, tier := range tiers {
		s := stage{pass: 1}
		if n > 0 {
			s.reason = ReasonFailover
		}
		for _, c := range tier {
			if d := v.dcs[c.DC]; d.up && c.Weight > 0 {
				s.choices = append(s.choices, Choice{c.DC, c.Weight * d.share})
				s.pass = d.share
			}
		}
		if len(s.choices) > 1 {
			s.pass = 1
		}
		if len(s.choices) == 0 {
			continue
		}
		if n > 0 && len(out) == 0 && v.spill {
			return v.spread(tiers)
		}
		out = append(out, s)
		if s.pass == 1 {
			return out
		}
	}
	if len(out) > 0 {
		out[len(out)-1].pass = 1 // nobody is left over
	}
	return out
}

// spread shares the clients of a failed centre over all others that their policy allows, by capacity: the neighbour
// alone might topple.
func (v *live) spread(tiers [][]Choice) []stage {
	s := stage{pass: 1, reason: ReasonFailover}
	for _, tier := range tiers {
		for _, c := range tier {
			if d := v.dcs[c.DC]; d.up && c.Weight > 0 {
				s.choices = append(s.choices, Choice{c.DC, d.capacity * d.share})
			}
		}
	}
	return []stage{s}
}

// route returns the centre (-1: none), the length of the prefix that shares the answer, and why.
func (v *live) route(a netip.Addr) (dc, length int, reason Reason) {
	class, length := v.plan.class(a)
	var stages []stage
	if class < len(v.routes) {
		stages = v.routes[class]
	} else {
		stages = v.stages(v.plan.tiers(class))
	}
	if len(stages) == 0 {
		if v.reason == ReasonPolicy { // the policy has no centre for this place
			return -1, length, ReasonAllDown
		}
		return -1, length, v.reason
	}
	if len(stages) == 1 && len(stages[0].choices) == 1 {
		return stages[0].choices[0].DC, length, max(stages[0].reason, v.reason)
	}
	bits := v.sticky[0]
	if a.Is6() {
		bits = v.sticky[1]
	}
	length = max(length, bits)
	client := prefixHash(a, bits)
	for i := range stages {
		s := &stages[i]
		if s.pass < 1 && unit(placement.HashUint64(client+uint64(i)*0x9e3779b97f4a7c15)) >= s.pass {
			continue
		}
		return v.draw(s.choices, client), length, max(s.reason, v.reason)
	}
	return -1, length, ReasonAllDown // not reached: the last stage passes all
}

// draw is weighted rendezvous hashing: each client prefix ranks the centres by its own dice, so that a centre that fails
// or loses weight moves only its own clients.
func (v *live) draw(choices []Choice, client uint64) (dc int) {
	if len(choices) == 1 {
		return choices[0].DC
	}
	top := math.Inf(-1)
	dc = choices[0].DC
	for _, c := range choices {
		if s := c.Weight / -math.Log(unit(placement.HashUint64(client^v.dcs[c.DC].hash))); s > top {
			top, dc = s, c.DC
		}
	}
	return dc
}

// unit maps a hash to a number between 0 and 1, never either.
func unit(h uint64) float64 { return (float64(h>>11) + 0.5) / (1 << 53) }

func prefixHash(a netip.Addr, bits int) uint64 {
	if a.Is4() {
		b := a.As4()
		return placement.HashUint64(uint64(binary.BigEndian.Uint32(b[:])) >> (32 - bits) << (32 - bits))
	}
	b := a.As16()
	return placement.HashUint64(binary.BigEndian.Uint64(b[:8])>>(64-bits)<<(64-bits) | 1) // never equal to an IPv4 one
}
