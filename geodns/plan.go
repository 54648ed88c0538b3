package geodns

import (
	"net/netip"
	"sync"
)

// plan is what a policy says, compiled: each address has a class, and each class its tiers. It knows nothing of health,
// so that a failure remaps a small table and not the ranges.
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

// remap gives each range its class and joins neighbors of one class: the fewer ranges, the wider the scopes.
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
