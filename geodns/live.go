package geodns

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/tierkit/tierkit/internal/placement"
)

// live is a plan under the present health: immutable, swapped as a whole.
type live struct {
	plan   *plan
	dcs    []liveDC
	routes [][]stage    // by class
	ranks  [][][]Choice // by class: all healthy tiers
	reason Reason       // of every decision, when none is healthy
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

// stage is one tier's healthy centers. pass is the share of clients that it keeps; the others go on to the next stage.
type stage struct {
	choices []Choice
	pass    float64
	reason  Reason
}

func (v *live) compile() {
	for _, tiers := range v.plan.classes {
		v.routes = append(v.routes, v.stages(tiers))
		v.ranks = append(v.ranks, v.healthy(tiers))
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
		if n > 0 && v.spill {
			return append(out, v.spread(tiers, out))
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

// spread shares the clients that a failed or ramping center does not serve over all others that their policy allows, by
// capacity: the neighbor alone might topple. taken is the stage of the ramping one.
func (v *live) spread(tiers [][]Choice, taken []stage) stage {
	s := stage{pass: 1, reason: ReasonFailover}
	for _, tier := range tiers {
		for _, c := range tier {
			if len(taken) > 0 && taken[0].choices[0].DC == c.DC {
				continue
			}
			if d := v.dcs[c.DC]; d.up && c.Weight > 0 {
				s.choices = append(s.choices, Choice{c.DC, d.capacity * d.share})
			}
		}
	}
	return s
}

// healthy is the tiers without the centers that are down.
func (v *live) healthy(tiers [][]Choice) (out [][]Choice) {
	for _, tier := range tiers {
		var up []Choice
		for _, c := range tier {
			if v.dcs[c.DC].up && c.Weight > 0 {
				up = append(up, c)
			}
		}
		if len(up) > 0 {
			out = append(out, up)
		}
	}
	return out
}

// route returns the center (-1: none), the length of the prefix that shares the answer, and why.
func (v *live) route(a netip.Addr) (dc, length int, reason Reason) {
	class, length := v.plan.class(a)
	return v.pick(class, length, a)
}

func (v *live) pick(class, length int, a netip.Addr) (dc, scope int, reason Reason) {
	var stages []stage
	if class < len(v.routes) {
		stages = v.routes[class]
	} else {
		stages = v.stages(v.plan.tiers(class))
	}
	if len(stages) == 0 {
		if v.reason == ReasonPolicy { // the policy has no center for this place
			return -1, length, ReasonAllDown
		}
		return -1, length, v.reason
	}
	if len(stages) == 1 && len(stages[0].choices) == 1 {
		return stages[0].choices[0].DC, length, max(stages[0].reason, v.reason)
	}
	bits := v.stickyBits(a)
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

func (v *live) stickyBits(a netip.Addr) int {
	if a.Is4() {
		return v.sticky[0]
	}
	return v.sticky[1]
}

// nearest fills order with the center that route returns and those that come next, all healthy, and returns how many
// and the length of the prefix that shares the answer.
func (v *live) nearest(a netip.Addr, order []int) (n, length int, reason Reason) {
	class, length := v.plan.class(a)
	dc, length, reason := v.pick(class, length, a)
	if dc < 0 {
		return 0, length, reason
	}
	order[0], n = dc, 1
	if len(order) == 1 {
		return n, length, reason
	}
	var ranks [][]Choice
	if class < len(v.ranks) {
		ranks = v.ranks[class]
	} else {
		ranks = v.healthy(v.plan.tiers(class))
	}
	bits := v.stickyBits(a)
	client := prefixHash(a, bits)
	for _, tier := range ranks {
		if len(tier) > 1 {
			length = max(length, bits)
		}
		for range tier {
			if n == len(order) {
				return n, length, reason
			}
			if dc = v.best(tier, client, order[:n]); dc < 0 {
				break
			}
			order[n] = dc
			n++
		}
	}
	return n, length, reason
}

// draw is weighted rendezvous hashing: each client prefix ranks the centers by its own dice, so that a center that
// fails or loses weight moves only its own clients.
func (v *live) draw(choices []Choice, client uint64) (dc int) {
	if len(choices) == 1 {
		return choices[0].DC
	}
	return max(v.best(choices, client, nil), 0)
}

// best is the choice that ranks highest of those that are not among taken; -1 when there is none.
func (v *live) best(choices []Choice, client uint64, taken []int) (dc int) {
	top := math.Inf(-1)
	dc = -1
	for _, c := range choices {
		if slices.Contains(taken, c.DC) {
			continue
		}
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
