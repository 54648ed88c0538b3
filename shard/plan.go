package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tierkit/tierkit/internal/placement"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
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

// sort orders the moves by source and target, as groups are handed over.
func (p *Plan) sort() {
	slices.SortFunc(p.Moves, func(a, b SlotMove) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Slot, b.Slot))
	})
}

// SlotMove is one slot's way.
type SlotMove struct {
	Slot Slot
	From ID
	To   ID
}

// Plan computes the minimal moves for a change and counts the rows they concern. It changes nothing.
func (c *Cluster) Plan(ctx context.Context, ch Change) (Plan, error) {
	if err := c.Refresh(ctx); err != nil {
		return Plan{}, err
	}
	v := c.view.Load()
	p := Plan{Epoch: v.Epoch()}
	var err error
	switch {
	case len(ch.Weights) > 0 && len(ch.Slots) == 0:
		p.Moves, err = c.rebalance(v, ch.Weights)
	case len(ch.Slots) > 0 && len(ch.Weights) == 0:
		p.Moves, err = c.moveSlots(v, ch.Slots, ch.To)
	default:
		err = errors.New("shard: Change needs either Weights, or Slots and To")
	}
	if err == nil {
		p.sort()
		err = c.countRows(ctx, &p)
	}
	if err != nil {
		return Plan{}, err
	}
	return p, nil
}

func (c *Cluster) rebalance(v *view, weights map[ID]float64) (out []SlotMove, err error) {
	nodes := make([]placement.Node, 0, len(weights))
	for _, id := range slices.Sorted(maps.Keys(weights)) {
		if _, err := c.shard(id); err != nil {
			return nil, err
		}
		nodes = append(nodes, placement.Node{ID: string(id), Weight: weights[id]})
	}
	prev, err := v.table()
	if err != nil {
		return nil, err
	}
	_, moves, err := placement.Rebalance(prev, v.Slots(), nodes)
	if err != nil {
		return nil, fmt.Errorf("shard: Change.Weights: %w", err)
	}
	for _, m := range moves {
		out = append(out, SlotMove{Slot(m.Slot), ID(m.From), ID(m.To)})
	}
	return out, nil
}

func (c *Cluster) moveSlots(v *view, slots []Slot, to ID) (out []SlotMove, err error) {
	if _, err := c.shard(to); err != nil {
		return nil, err
	}
	for _, s := range slots {
		from := v.Owner(s)
		if from == "" {
			return nil, fmt.Errorf("shard: Change.Slots: slot %d does not exist", s)
		}
		if from != to {
			out = append(out, SlotMove{s, from, to})
		}
	}
	return out, nil
}

const countMoved = `
select count(*)
from {table}
where {in}`

// countRows sets the number of rows of the moves.
func (c *Cluster) countRows(ctx context.Context, p *Plan) error {
	if c.db == nil {
		return nil
	}
	bySource := map[ID][]stored.Slot{}
	for _, m := range p.Moves {
		bySource[m.From] = append(bySource[m.From], stored.Slot(m.Slot))
	}
	for id, slots := range bySource {
		sh, err := c.shard(id)
		if err != nil {
			return err
		}
		for _, t := range c.opts.Tables {
			var n int64
			q := sqldb.Fill(countMoved, "table", t.Name, "in", c.db.InSlots(c.db.Quote(t.SlotColumn), 1))
			if err := sh.DB.QueryRowContext(ctx, q, c.db.SlotList(slots)).Scan(&n); err != nil {
				return fmt.Errorf("shard: count %s on %s: %w", t.Name, id, err)
			}
			p.Rows += n
		}
	}
	return nil
}

// stored are the moves as package stored has them.
func (p *Plan) stored() []stored.Move {
	out := make([]stored.Move, len(p.Moves))
	for i, m := range p.Moves {
		out[i] = stored.Move{Slot: stored.Slot(m.Slot), From: string(m.From), To: string(m.To)}
	}
	return out
}
