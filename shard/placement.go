package shard

import (
	"fmt"
	"math/bits"

	"github.com/tierkit/tierkit/internal/placement"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// defaultSlots is the number of hashed slots of a new map.
const defaultSlots = 16384

// Placement is how a map finds the slot of a key: Hash, Modulo, Range or Directory. The zero value is the stored map's
// placement, and in a new map Hash.
type Placement struct {
	kind  placementKind
	modul int
	width int64
}

type placementKind uint8

const (
	asStored placementKind = iota
	byHash
	byModulo
	byRange
	byDirectory
)

// Hash spreads keys evenly over all slots. It is the placement to begin with.
func Hash() Placement { return Placement{kind: byHash} }

// Modulo adopts an existing fleet sharded by id % n: in a new map shard i holds the ids with id % n == i, and no row
// moves. The shards given to New must be that many, in order. The number of slots follows from n, so Options.Slots must
// be zero.
func Modulo(n int) Placement { return Placement{kind: byModulo, modul: n} }

// Range places integer keys by range instead of by hash: width consecutive keys share a slot, and consecutive ranges
// have consecutive slots, beginning again at 0 after Options.Slots of them. For orders by date the key is the day or
// the Unix time and width the seconds of a month; Plan with Change.Slots then moves months, and Map.RangeSlots finds
// them. Hash placement spreads writes; this does not. Text keys are hashed.
func Range(width int64) Placement { return Placement{kind: byRange, width: width} }

// Directory places keys by a list instead of by hash: a key is where Cluster.Assign put it, and one that was never
// assigned is ErrUnassigned. It is for a few thousand keys at most, such as categories or tenants, because the list is
// part of the map.
func Directory() Placement { return Placement{kind: byDirectory} }

// String describes the placement as Options.Placement has it.
func (p Placement) String() string {
	switch p.kind {
	case byHash:
		return "Hash()"
	case byModulo:
		return fmt.Sprintf("Modulo(%d)", p.modul)
	case byRange:
		return fmt.Sprintf("Range(%d)", p.width)
	case byDirectory:
		return "Directory()"
	}
	return "as stored"
}

// placementOf is the placement of a stored map.
func placementOf(st *stored.State) Placement {
	switch {
	case st.Modulo > 0:
		return Modulo(st.Modulo)
	case st.RangeWidth > 0:
		return Range(st.RangeWidth)
	case st.Directory:
		return Directory()
	}
	return Hash()
}

// check refuses a placement that no new map could have.
func (p Placement) check(slots, shards int) error {
	if slots != 0 && (bits.OnesCount(uint(slots)) != 1 || slots < 0 || slots > 1<<20) {
		return fmt.Errorf("shard: Options.Slots %d is not a power of two up to 2^20", slots)
	}
	switch {
	case p.kind == byModulo && p.modul != shards:
		return fmt.Errorf("shard: Options.Placement is %s for %d shards", p, shards)
	case p.kind == byModulo && slots != 0:
		return fmt.Errorf("shard: Options.Slots %d with Options.Placement %s, which sets the number of slots", slots, p)
	case p.kind == byRange && p.width <= 0:
		return fmt.Errorf("shard: Options.Placement %s: the width is not positive", p)
	}
	return nil
}

// fits refuses a stored map that is not as the options want it.
func (o *Options) fits(st *stored.State) error {
	if have := placementOf(st); o.Placement.kind != asStored && o.Placement != have {
		return fmt.Errorf("shard: Options.Placement is %s, the stored map has %s", o.Placement, have)
	}
	if o.Slots != 0 && o.Slots != st.Slots {
		return fmt.Errorf("shard: Options.Slots is %d, the stored map has %d slots", o.Slots, st.Slots)
	}
	return nil
}

// firstState is a new map: the slots spread over the shards by weight, or by the modulus.
func firstState(shards []Shard, o *Options) (*stored.State, error) {
	p, slots := o.Placement, o.Slots
	switch {
	case p.kind == byModulo:
		slots = p.modul * max(defaultSlots/p.modul, 1)
	case slots == 0:
		slots = defaultSlots
	}
	st := &stored.State{Epoch: 1, Lease: o.MapTTL, HashVersion: placement.HashVersion, Slots: slots, Modulo: p.modul,
		RangeWidth: p.width, Directory: p.kind == byDirectory, Owners: make(stored.Owners, slots)}
	nodes := make([]placement.Node, len(shards))
	for i, s := range shards {
		w := s.Weight
		if w == 0 {
			w = 1
		}
		nodes[i] = placement.Node{ID: string(s.ID), Weight: max(w, 0)}
		st.Shards = append(st.Shards, string(s.ID))
	}
	if p.kind == byModulo {
		for s := range st.Owners {
			st.Owners[s] = uint16(s % p.modul)
		}
		return st, nil
	}
	t, _, err := placement.Rebalance(nil, slots, nodes)
	if err != nil {
		return nil, fmt.Errorf("shard: Shard.Weight: %w", err)
	}
	index := map[string]uint16{}
	for i, id := range st.Shards {
		index[id] = uint16(i)
	}
	for s := range st.Owners {
		st.Owners[s] = index[t.OwnerID(s)]
	}
	return st, nil
}

// rangeSlot is the slot of an integer in a map of ranges. Ranges below 0 count on backwards.
func (m *Map) rangeSlot(n int64) Slot {
	r := n / m.width
	if n%m.width < 0 {
		r--
	}
	if r %= int64(m.mod); r < 0 {
		r += int64(m.mod)
	}
	return Slot(r)
}

// RangeSlots returns the slots of the keys from lo to hi, both included, in a map with placement Range: to move them
// (Change.Slots), or to ask only the shards that have them (Query.Only). It returns nil for other maps, where a range
// of keys is everywhere.
func (m *Map) RangeSlots(lo, hi int64) []Slot {
	if m.width == 0 || hi < lo {
		return nil
	}
	var out []Slot
	first := lo - (lo%m.width+m.width)%m.width
	for n := first; n <= hi && len(out) < int(m.mod); n += m.width {
		out = append(out, m.rangeSlot(n))
		if n > n+m.width { // the end of int64
			break
		}
	}
	return out
}
