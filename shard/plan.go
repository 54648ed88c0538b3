package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tierkit/tierkit/internal/placement"
)

// Change is what a Plan is made for: either Weights, or Slots and To.
type Change struct {
	// Weights of the shards that shall own slots after it; shards not named are emptied.
	Weights map[ID]float64
	// Slots are moved to To, whatever the weights say.
	Slots []Slot
	To    ID
}

// Plan is a list of moves, made from one map.
type Plan struct {
	Epoch uint64
	Moves []SlotMove
	// Rows is the number of rows to copy, as counted when the plan was made.
	Rows int64
}

// sort by source and target, as groups are handed over.
func (p *Plan) sort() {
	slices.SortFunc(p.Moves, func(a, b SlotMove) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Slot, b.Slot))
	})
}

// SlotMove is one slot's way.
type SlotMove struct {
	Slot Slot `json:"s"`
	From ID   `json:"f"`
	To   ID   `json:"t"`
}

// Plan computes the minimal moves for a change and counts the rows they concern. It changes nothing.
func (c *Cluster) Plan(ctx context.Context, ch Change) (Plan, error) {
	if err := c.Refresh(ctx); err != nil {
		return Plan{}, err
	}
	v := c.view.Load()
	p := Plan{Epoch: v.Epoch()}
	switch {
	case len(ch.Weights) > 0 && len(ch.Slots) == 0:
		nodes := make([]placement.Node, 0, len(ch.Weights))
		for _, id := range slices.Sorted(maps.Keys(ch.Weights)) {
			if _, err := c.shard(id); err != nil {
				return Plan{}, err
			}
			nodes = append(nodes, placement.Node{ID: string(id), Weight: ch.Weights[id]})
		}
		prev, err := v.table()
		if err != nil {
			return Plan{}, err
		}
		_, moves, err := placement.Rebalance(prev, v.Slots(), nodes)
		if err != nil {
			return Plan{}, fmt.Errorf("shard: Change.Weights: %w", err)
		}
		for _, m := range moves {
			p.Moves = append(p.Moves, SlotMove{Slot(m.Slot), ID(m.From), ID(m.To)})
		}
	case len(ch.Slots) > 0 && len(ch.Weights) == 0:
		if _, err := c.shard(ch.To); err != nil {
			return Plan{}, err
		}
		for _, s := range ch.Slots {
			from := v.Owner(s)
			if from == "" {
				return Plan{}, fmt.Errorf("shard: Change.Slots: slot %d does not exist", s)
			}
			if from != ch.To {
				p.Moves = append(p.Moves, SlotMove{s, from, ch.To})
			}
		}
	default:
		return Plan{}, errors.New("shard: Change needs either Weights, or Slots and To")
	}
	p.sort()
	if d := c.opts.Dialect; d != nil {
		bySource := map[ID][]Slot{}
		for _, m := range p.Moves {
			bySource[m.From] = append(bySource[m.From], m.Slot)
		}
		for id, slots := range bySource {
			sh, err := c.shard(id)
			if err != nil {
				return Plan{}, err
			}
			for _, t := range c.opts.Tables {
				var n int64
				q := `select count(*) from ` + t.Name + ` where ` + d.inSlots(d.quote(t.SlotColumn), 1)
				if err := sh.DB.QueryRowContext(ctx, q, d.slotList(slots)).Scan(&n); err != nil {
					return Plan{}, fmt.Errorf("shard: count %s on %s: %w", t.Name, id, err)
				}
				p.Rows += n
			}
		}
	}
	return p, nil
}
