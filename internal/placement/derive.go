package placement

import (
	"math/bits"
	"slices"
)

// Derive fills a table by weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and
// Schomaker 2005): each slot goes to the node with the least -log(hash(slot, node))/weight. The result depends on the
// set of members alone, not on their order or history, and a change of members moves only slots of the members that
// changed. Shares are random around the weights: with s slots per node the standard deviation is about sqrt(s) slots.
func Derive(slots int, members []Node) (*Table, error) {
	if err := check(slots, members); err != nil {
		return nil, err
	}
	t := derived(slots, byID(members))
	for slot := range t.owner {
		t.owner[slot] = t.best(slot)
	}
	return t, nil
}

func derived(slots int, nodes []Node) *Table {
	t := &Table{nodes: nodes, owner: make([]uint16, slots), rankBy: true,
		seeds: make([]uint64, len(nodes)), fixed: make([]uint64, len(nodes))}
	for i, n := range nodes {
		t.seeds[i] = HashString(n.ID)
		t.fixed[i] = max(1, uint64(n.Weight*(1<<16)))
	}
	return t
}

// score is the node's hash for the slot; a higher one means a lower -log.
func (t *Table) score(slot, node int) uint64 {
	return HashUint64(t.seeds[node] ^ HashUint64(uint64(slot)+0x9e3779b97f4a7c15))
}

// beats reports whether node a with hash ha comes before node b with hash hb: -log(ha)/wa < -log(hb)/wb, compared
// without division; ties go to the lower ID, which is the lower index.
func (t *Table) beats(a int, ha uint64, b int, hb uint64) bool {
	wa, wb := t.fixed[a], t.fixed[b]
	if wa == wb {
		return ha > hb || ha == hb && a < b
	}
	ahi, alo := bits.Mul64(negLog2(ha), wb)
	bhi, blo := bits.Mul64(negLog2(hb), wa)
	if ahi != bhi {
		return ahi < bhi
	}
	return alo < blo || alo == blo && a < b
}

func (t *Table) best(slot int) uint16 {
	win, hw := none, uint64(0)
	for i := range t.nodes {
		if h := t.score(slot, i); win == none || t.beats(i, h, win, hw) {
			win, hw = i, h
		}
	}
	return uint16(win)
}

// With returns what Derive(t.Slots(), members) would, at a cost that grows with the change instead of the fleet: slots
// of unchanged owners are compared with the new and re-weighted members only. t must come from Derive or With.
func (t *Table) With(members []Node) (*Table, error) {
	if err := check(len(t.owner), members); err != nil {
		return nil, err
	}
	n := derived(len(t.owner), byID(members))
	if !t.rankBy {
		return Derive(len(t.owner), members)
	}
	kept := make([]int, len(t.nodes)) // old index -> new index of an unchanged member, or -1
	var changed []int                 // new members, and those whose weight is new
	old := make(map[string]int, len(t.nodes))
	for i, m := range t.nodes {
		old[m.ID], kept[i] = i, -1
	}
	for i, m := range n.nodes {
		if o, ok := old[m.ID]; ok && t.fixed[o] == n.fixed[i] {
			kept[o] = i
		} else {
			changed = append(changed, i)
		}
	}
	for slot, o := range t.owner {
		if o == none || kept[o] < 0 {
			n.owner[slot] = n.best(slot) // the owner left or was re-weighted: ask everybody
			continue
		}
		win := kept[o]
		hw := n.score(slot, win)
		for _, i := range changed {
			if h := n.score(slot, i); n.beats(i, h, win, hw) {
				win, hw = i, h
			}
		}
		n.owner[slot] = uint16(win)
	}
	return n, nil
}

// Rank returns the indices of the first n nodes for slot, best first: where a key goes when its owner can't serve it.
// Every process with the same members gets the same order. The table must come from Derive or With; n below 1 means
// all.
func (t *Table) Rank(slot, n int) []int {
	type scored struct {
		node int
		hash uint64
	}
	all := make([]scored, len(t.nodes))
	for i := range all {
		all[i] = scored{i, t.score(slot, i)}
	}
	slices.SortFunc(all, func(a, b scored) int {
		if t.beats(a.node, a.hash, b.node, b.hash) {
			return -1
		}
		return 1
	})
	if n < 1 || n > len(all) {
		n = len(all)
	}
	out := make([]int, n)
	for i := range out {
		out[i] = all[i].node
	}
	return out
}
