package shard

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/tierkit/tierkit/internal/placement"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// Map says which shard owns which slot at one epoch. Immutable; lookups take no lock and allocate nothing.
type Map struct {
	owner []uint16 // per hashed slot: index into shards, with the exception bit when a key of the slot is pinned
	shift uint8    // 64 - log2 of the slots
	mod   uint64   // slots when the map is not simply hashed, else 0
	width int64    // of a range; 0: id % n
	ids   []ID
	st    *stored.State
	index map[ID]int
}

// exception marks slots that need a second look, so that all others never pay for pins.
const exception = 1 << 15

func newMap(st *stored.State) (*Map, error) {
	if st.HashVersion != placement.HashVersion {
		return nil, fmt.Errorf("%w: it has %d, this build %d", ErrHashVersion, st.HashVersion, placement.HashVersion)
	}
	if st.Slots < 1 || len(st.Owners) != st.Slots || st.Modulo == 0 && st.Slots&(st.Slots-1) != 0 {
		return nil, fmt.Errorf("%w: %d slots, %d owners", ErrHashVersion, st.Slots, len(st.Owners))
	}
	if len(st.Shards) == 0 || len(st.Shards) >= exception {
		return nil, fmt.Errorf("shard: a map of %d shards", len(st.Shards))
	}
	m := &Map{owner: slices.Clone(st.Owners), shift: uint8(64 - bits.TrailingZeros(uint(st.Slots))), st: st,
		index: map[ID]int{}}
	if st.Modulo > 0 || st.RangeWidth > 0 {
		m.mod, m.width = uint64(st.Slots), st.RangeWidth
	}
	for i, id := range st.Shards {
		m.ids = append(m.ids, ID(id))
		m.index[ID(id)] = i
	}
	for s, o := range m.owner {
		if int(o) >= len(st.Shards) {
			return nil, fmt.Errorf("shard: slot %d belongs to shard %d of %d", s, o, len(st.Shards))
		}
	}
	for s := range m.owner {
		if st.Directory { // every key needs the second look
			m.owner[s] |= exception
		}
	}
	for pin := range st.Pins {
		m.owner[m.hashed(pinHash(pin), pinNum(pin), pin[0] == 'i')] |= exception
	}
	return m, nil
}

func pinHash(pin string) uint64 {
	if pin[0] == 'i' {
		return placement.HashUint64(pinNum(pin))
	}
	return placement.HashString(pin[1:])
}

func pinNum(pin string) uint64 {
	var n int64
	if pin[0] == 'i' {
		_, _ = fmt.Sscan(pin[1:], &n)
	}
	return uint64(n)
}

// Slots is the number of hashed slots.
func (m *Map) Slots() int { return len(m.owner) }

// Epoch rises with each change.
func (m *Map) Epoch() uint64 { return m.st.Epoch }

func (m *Map) hashed(h, num uint64, integer bool) Slot {
	if m.width != 0 && integer {
		return m.rangeSlot(int64(num))
	}
	if m.mod != 0 {
		if num != 0 {
			return Slot(num % m.mod)
		}
		return Slot(h % m.mod)
	}
	return Slot(h >> m.shift)
}

// Slot of a text key.
func (m *Map) Slot(key string) Slot {
	if m.mod != 0 {
		return m.SlotOf(String(key))
	}
	s := placement.HashString(key) >> m.shift
	if m.owner[s]&exception != 0 {
		return m.pinned(String(key), Slot(s))
	}
	return Slot(s)
}

// SlotUint64 of an integer key.
func (m *Map) SlotUint64(id uint64) Slot {
	if m.mod != 0 {
		return m.SlotOf(Int(int64(id)))
	}
	s := placement.HashUint64(id) >> m.shift
	if m.owner[s]&exception != 0 {
		return m.pinned(Int(int64(id)), Slot(s))
	}
	return Slot(s)
}

// SlotOf any key, pinned ones included.
func (m *Map) SlotOf(k Key) Slot {
	s := m.hashed(k.hash(), k.num, k.kind == keyInt)
	if m.owner[s]&exception != 0 {
		return m.pinned(k, s)
	}
	return s
}

func (m *Map) pinned(k Key, s Slot) Slot {
	if p, ok := m.st.Pins[k.pin()]; ok {
		return Slot(p)
	}
	if m.st.Directory {
		return -1
	}
	return s
}

// Owner of a slot, "" when it has none.
func (m *Map) Owner(s Slot) ID {
	i, ok := m.ownerIndex(s)
	if !ok {
		return ""
	}
	return m.ids[i]
}

func (m *Map) ownerIndex(s Slot) (int, bool) {
	if uint(s) < uint(len(m.owner)) {
		return int(m.owner[s] &^ exception), true
	}
	o, ok := m.st.PinOwners[stored.Slot(s)]
	return int(o), ok
}

// Shards in the map's order.
func (m *Map) Shards() []ID { return slices.Clone(m.ids) }

// Counts is the number of hashed slots per shard.
func (m *Map) Counts() map[ID]int {
	c := map[ID]int{}
	for _, o := range m.owner {
		c[m.ids[o&^exception]]++
	}
	return c
}

// Owned lists the slots of a shard, pinned ones included.
func (m *Map) Owned(id ID) (out []Slot) {
	i, ok := m.index[id]
	if !ok {
		return nil
	}
	for s, o := range m.owner {
		if int(o&^exception) == i {
			out = append(out, Slot(s))
		}
	}
	for s, o := range m.st.PinOwners {
		if int(o) == i {
			out = append(out, Slot(s))
		}
	}
	return out
}

// Moving reports whether a job was in progress when the map was stored.
func (m *Map) Moving() bool { return m.st.Job != nil }

// Pinned reports whether the key has a slot of its own, by Pin or Assign, and Pins how many keys have.
func (m *Map) Pinned(k Key) bool {
	_, ok := m.st.Pins[k.pin()]
	return ok
}

// Pins returns the number of keys that have a slot of their own.
func (m *Map) Pins() int { return len(m.st.Pins) }

// storedSlots are the slots as package stored has them.
func storedSlots(slots []Slot) []stored.Slot {
	out := make([]stored.Slot, len(slots))
	for i, s := range slots {
		out[i] = stored.Slot(s)
	}
	return out
}

// sameOwners reports whether two maps place every slot alike.
func (m *Map) sameOwners(o *Map) bool {
	return slices.Equal(m.owner, o.owner) && slices.Equal(m.ids, o.ids) && maps.Equal(m.st.PinOwners, o.st.PinOwners) &&
		maps.Equal(m.st.Pins, o.st.Pins)
}

// table is the map as placement sees it.
func (m *Map) table() (*placement.Table, error) {
	nodes := make([]placement.Node, len(m.ids))
	for i, id := range m.ids {
		nodes[i] = placement.Node{ID: string(id), Weight: 1}
	}
	owners := make([]int, len(m.owner))
	for s, o := range m.owner {
		owners[s] = int(o &^ exception)
	}
	return placement.FromOwners(nodes, owners)
}
