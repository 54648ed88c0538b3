// Package placement maps slots to nodes: an immutable table that every package which puts keys on nodes looks up. A key
// is hashed to one of a fixed number of slots, and only slots move between nodes: this is our consistent hashing, one
// memory load per lookup instead of a search on a ring, and balanced by construction.
//
// Two ways fill a table. Rebalance starts from the previous table and moves the minimum: for a map that is stored and
// shared (shard). Derive is a pure function of the set of members: for processes that saw members come and go in
// different order and must agree all the same (lb, cache, cdn).
package placement

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// MaxSlots is the largest number of slots of a table, MaxNodes that of nodes.
const (
	MaxSlots = 1 << 20
	MaxNodes = 1<<16 - 1
)

// ErrInvalid is returned for nodes or sizes that make no table; the message names the fault.
var ErrInvalid = errors.New("placement: invalid")

// Node is a place for keys.
type Node struct {
	// ID names the node; it is what hashing sees.
	ID string
	// Weight is the node's share relative to the others. In Rebalance 0 drains the node; in Derive a node of weight 0
	// or less counts as absent.
	Weight float64
}

// Table says which node owns which slot. It is immutable and safe for concurrent use.
type Table struct {
	nodes  []Node
	owner  []uint16 // index into nodes, or none
	seeds  []uint64 // Derive: hash of each node's ID
	fixed  []uint64 // Derive: weights in units of 2^-16
	rankBy bool     // filled by Derive
}

const none = MaxNodes

func check(slots int, nodes []Node) error {
	if slots < 1 || slots > MaxSlots {
		return fmt.Errorf("%w: %d slots, want 1 to %d", ErrInvalid, slots, MaxSlots)
	}
	if len(nodes) > MaxNodes {
		return fmt.Errorf("%w: %d nodes, want at most %d", ErrInvalid, len(nodes), MaxNodes)
	}
	seen := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		if n.ID == "" {
			return fmt.Errorf("%w: a node has an empty ID", ErrInvalid)
		}
		if seen[n.ID] {
			return fmt.Errorf("%w: node %q is listed twice", ErrInvalid, n.ID)
		}
		if math.IsNaN(n.Weight) || n.Weight < 0 || n.Weight > 1<<30 {
			return fmt.Errorf("%w: node %q has weight %v, want 0 to 2^30", ErrInvalid, n.ID, n.Weight)
		}
		seen[n.ID] = true
	}
	return nil
}

// FromOwners makes a table from stored owners: owners[slot] is an index into nodes, or -1 for a slot without owner.
func FromOwners(nodes []Node, owners []int) (*Table, error) {
	if err := check(len(owners), nodes); err != nil {
		return nil, err
	}
	t := &Table{nodes: slices.Clone(nodes), owner: make([]uint16, len(owners))}
	for slot, o := range owners {
		switch {
		case o == -1:
			t.owner[slot] = none
		case o < 0 || o >= len(nodes):
			return nil, fmt.Errorf("%w: slot %d belongs to node %d of %d", ErrInvalid, slot, o, len(nodes))
		default:
			t.owner[slot] = uint16(o)
		}
	}
	return t, nil
}

// Slots returns the number of slots.
func (t *Table) Slots() int { return len(t.owner) }

// Nodes returns the nodes in the order that Owner's index refers to. The caller must not change it.
func (t *Table) Nodes() []Node { return t.nodes }

// Owner returns the index of the node that owns slot, or -1 when nobody does.
func (t *Table) Owner(slot int) int {
	if o := t.owner[slot]; o != none {
		return int(o)
	}
	return -1
}

// OwnerID returns the ID of the node that owns slot, or "".
func (t *Table) OwnerID(slot int) string {
	if o := t.owner[slot]; o != none {
		return t.nodes[o].ID
	}
	return ""
}

// OfString returns the index of the node for a string key, or -1.
func (t *Table) OfString(key string) int { return t.Owner(SlotOf(HashString(key), len(t.owner))) }

// OfUint64 returns the index of the node for an integer key, or -1.
func (t *Table) OfUint64(key uint64) int { return t.Owner(SlotOf(HashUint64(key), len(t.owner))) }

// Counts returns how many slots each node owns, in the order of Nodes.
func (t *Table) Counts() []int {
	c := make([]int, len(t.nodes))
	for _, o := range t.owner {
		if o != none {
			c[o]++
		}
	}
	return c
}

// byID sorts present members by ID, so that a table depends on the set alone.
func byID(members []Node) []Node {
	out := make([]Node, 0, len(members))
	for _, m := range members {
		if m.Weight > 0 {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	return out
}
