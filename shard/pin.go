package shard

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// maxPins bounds the keys with slots of their own: each makes the lookups of one hashed slot slower, and all are in the
// map.
const maxPins = 1024

// Pin gives a key a slot of its own and moves its rows to a shard: a celebrity gets a database, or a tenant his. The
// rows are found by Table.By. It is a job like any other, except that its first phase cannot be aborted. A key that is
// pinned already is moved.
func (c *Cluster) Pin(ctx context.Context, k Key, to ID, o MoveOptions) (*Job, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.opts.Dialect == nil || len(c.opts.Tables) == 0 {
		return nil, fmt.Errorf("%w: Options.Dialect and Options.Tables are needed to move rows", ErrPreflight)
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
	st, err := c.store.Load(ctx)
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
		plan, err := c.Plan(ctx, Change{Slots: []Slot{p}, To: to})
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
	slot, old := st.freeSlot(), m.SlotOf(k)
	if old < 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnassigned, k)
	}
	pin := &PinState{Key: k.pin(), By: parts, From: m.Owner(old), Old: old, Slot: slot}
	next := st.clone()
	next.Epoch++
	next.Token++
	next.Job = &JobState{ID: next.Token, Token: next.Token, Phase: PhasePin, Pin: pin, Reversible: o.Reversible}
	if pin.From != to {
		next.Job.Moves, next.Job.Size = []SlotMove{{slot, pin.From, to}}, 1
	}
	asked = time.Now()
	if err := c.store.CompareAndSwap(ctx, st.Epoch, next); err != nil {
		return nil, err
	}
	return c.start(next, o, asked)
}

// pin relabels the rows where they are. From its commit until the map names the pin, writes of the key are refused and
// repeated.
func (j *Job) pin(p *PinState) error {
	if err := j.enter(PhasePin); err != nil {
		return err
	}
	d := j.c.opts.Dialect
	sh, err := j.c.shard(p.From)
	if err != nil {
		return err
	}
	by, err := json.Marshal(p.By)
	if err != nil {
		return err
	}
	var infos []*tableInfo
	if err := j.in(sh, func(tx *sql.Tx) (err error) { infos, err = j.describe(tx); return err }); err != nil {
		return err
	}
	if err := d.install(j.ctx, sh.DB, infos); err != nil {
		return err
	}
	return j.in(sh, func(tx *sql.Tx) error {
		infos, err := j.describe(tx)
		if err != nil {
			return err
		}
		if err := d.setState(j.ctx, tx, []Slot{p.Slot}, stateOwned); err != nil {
			return err
		}
		if err := d.touch(j.ctx, tx, p.Old); err != nil {
			return err
		}
		if err := d.lockTables(j.ctx, tx, infos); err != nil {
			return err
		}
		if err := d.pin(j.ctx, tx, infos, p.Old, p.Slot, string(by)); err != nil {
			return err
		}
		return d.guards(j.ctx, tx, infos)
	})
}
