package shard

import (
	"context"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/shard/internal/stored"
)

// maxPins bounds the keys with slots of their own: each makes the lookups of one hashed slot slower, and all are in the
// map.
const maxPins = 1024

// Pin gives a key a slot of its own and moves its rows to a shard: a celebrity gets a database, or a tenant. The rows
// are found by Table.By. It is a job like any other, except that its first phase cannot be aborted. A key that is
// pinned already is moved.
func (c *Cluster) Pin(ctx context.Context, k Key, to ID, o MoveOptions) (*Job, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := c.movable(); err != nil {
		return nil, err
	}
	if _, err := c.shard(to); err != nil {
		return nil, err
	}
	parts := k.parts()
	for _, t := range c.opts.Tables {
		if len(t.By) != len(parts) {
			return nil, fmt.Errorf("%w: the key has %d parts, table %s is sharded by %v", ErrPreflight, len(parts),
				t.Name, t.By)
		}
	}
	asked := time.Now()
	st, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	if st.Job != nil {
		return nil, ErrMoving
	}
	if err := c.install(st, asked); err != nil {
		return nil, err
	}
	if p, ok := st.Pins[k.pin()]; ok {
		plan, err := c.Plan(ctx, Change{Slots: []Slot{Slot(p)}, To: to})
		if err != nil {
			return nil, err
		}
		return c.Move(ctx, plan, o)
	}
	if len(st.Pins) >= maxPins {
		return nil, fmt.Errorf("%w: %d keys are pinned already", ErrPreflight, len(st.Pins))
	}
	m, err := newMap(st)
	if err != nil {
		return nil, err
	}
	slot, old := st.FreeSlot(), m.SlotOf(k)
	if old < 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnassigned, k)
	}
	from := m.Owner(old)
	js := &stored.Job{Phase: stored.Pinning, Reversible: o.Reversible,
		Pin: &stored.Pin{Key: k.pin(), By: parts, From: string(from), Old: stored.Slot(old), Slot: slot}}
	if from != to {
		js.Moves, js.Size = []stored.Move{{Slot: slot, From: string(from), To: string(to)}}, 1
	}
	return c.begin(ctx, st, js, o)
}
