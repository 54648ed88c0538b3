package placement

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Move is one slot that changes its owner; From is "" for a slot that had none.
type Move struct {
	Slot     int
	From, To string
}

// Rebalance returns the table that gives every node its exact quota of slots (largest remainder method over the
// weights, ties to whoever needs fewer moves) with the fewest moves from prev: a node gives only what is above its
// quota, and nothing moves between nodes that both keep theirs. prev may be nil for a first fill; slots must equal
// prev.Slots() otherwise. Nodes that prev knows and the list lacks lose all their slots, as do those of weight 0.
// It returns ErrInvalid when no node has a weight.
func Rebalance(prev *Table, slots int, nodes []Node) (*Table, []Move, error) {
	if err := check(slots, nodes); err != nil {
		return nil, nil, err
	}
	if prev != nil && prev.Slots() != slots {
		return nil, nil, fmt.Errorf("%w: the table has %d slots, asked for %d", ErrInvalid, prev.Slots(), slots)
	}
	t := &Table{nodes: slices.Clone(nodes), owner: make([]uint16, slots)}
	have := make([]int, len(nodes))
	t.carry(prev, have)
	quota, err := quotas(slots, nodes, have)
	if err != nil {
		return nil, nil, err
	}

	// Take from the end of each surplus owner's slots, then hand out in slot order.
	for slot := slots - 1; slot >= 0; slot-- {
		if o := t.owner[slot]; o != none && have[o] > quota[o] {
			have[o]--
			t.owner[slot] = none
		}
	}
	var moves []Move
	to := 0
	for slot, o := range t.owner {
		if o != none {
			continue
		}
		for have[to] >= quota[to] {
			to++
		}
		t.owner[slot] = uint16(to)
		have[to]++
		m := Move{Slot: slot, To: nodes[to].ID}
		if prev != nil {
			m.From = prev.OwnerID(slot)
		}
		moves = append(moves, m)
	}
	return t, moves, nil
}

// carry copies prev's owners as far as they are still listed, and counts them.
func (t *Table) carry(prev *Table, have []int) {
	for i := range t.owner {
		t.owner[i] = none
	}
	if prev == nil {
		return
	}
	index := make(map[string]uint16, len(t.nodes))
	for i, n := range t.nodes {
		index[n.ID] = uint16(i)
	}
	now := make([]uint16, len(prev.nodes))
	for i, n := range prev.nodes {
		now[i] = none
		if j, ok := index[n.ID]; ok {
			now[i] = j
		}
	}
	for slot, o := range prev.owner {
		if o != none && now[o] != none {
			t.owner[slot] = now[o]
			have[now[o]]++
		}
	}
}

// quotas shares slots out by weight: everybody the floor of the exact share, and the rest to the largest remainders;
// among equal remainders first to nodes that already own more than their floor.
func quotas(slots int, nodes []Node, have []int) ([]int, error) {
	var sum float64
	for _, n := range nodes {
		sum += n.Weight
	}
	if sum <= 0 {
		return nil, fmt.Errorf("%w: no node has a weight above 0", ErrInvalid)
	}
	quota := make([]int, len(nodes))
	rest := slots
	order := make([]int, 0, len(nodes))
	remainder := make([]float64, len(nodes))
	for i, n := range nodes {
		exact := float64(slots) * n.Weight / sum
		quota[i] = int(math.Floor(exact))
		remainder[i] = exact - math.Floor(exact)
		rest -= quota[i]
		if n.Weight > 0 {
			order = append(order, i)
		}
	}
	const eps = 1e-9 // remainders that differ by rounding only are equal
	slices.SortStableFunc(order, func(a, b int) int {
		if d := remainder[b] - remainder[a]; math.Abs(d) > eps {
			return cmp.Compare(d, 0)
		}
		return cmp.Compare(have[b]-quota[b], have[a]-quota[a])
	})
	for i := range rest { // rest < number of weighted nodes
		quota[order[i%len(order)]]++
	}
	return quota, nil
}
