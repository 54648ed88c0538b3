package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Usage is how full one shard is.
type Usage struct {
	Shard ID
	// Rows of the managed tables, of the slots that the shard owns.
	Rows int64
	// Bytes of the whole database, as it says itself.
	Bytes int64
	// Load is the shard's share of the operations that this process routed since it began, 0 to 1.
	Load float64

	slots map[Slot]int64 // rows
}

// Usage asks all shards, those without slots included. It counts rows, so it takes as long as an index scan of every
// table.
func (c *Cluster) Usage(ctx context.Context) ([]Usage, error) {
	d := c.opts.Dialect
	if d == nil {
		return nil, fmt.Errorf("%w: Options.Dialect is needed to count rows", ErrPreflight)
	}
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	v := c.view.Load()
	var out []Usage
	total := 0.0
	for _, sh := range c.known() {
		u := Usage{Shard: sh.ID, Load: float64(sh.routed.Load()), slots: map[Slot]int64{}}
		total += u.Load
		err := func() (err error) {
			if u.Bytes, err = d.bytes(ctx, sh.DB); err != nil {
				return err
			}
			for _, s := range v.owned(sh.ID) {
				u.slots[s] = 0
			}
			if len(u.slots) == 0 {
				return nil
			}
			for _, t := range c.opts.Tables {
				if err := countSlots(ctx, d, sh, t, u.slots); err != nil {
					return err
				}
			}
			return nil
		}()
		if err != nil {
			return nil, fmt.Errorf("shard: usage of %s: %w", sh.ID, err)
		}
		for _, n := range u.slots {
			u.Rows += n
		}
		out = append(out, u)
	}
	for i := range out {
		if total > 0 {
			out[i].Load /= total
		}
	}
	return out, nil
}

func countSlots(ctx context.Context, d Dialect, sh *shardState, t Table, into map[Slot]int64) error {
	col := d.quote(t.SlotColumn)
	rows, err := sh.DB.QueryContext(ctx, `select `+col+`, count(*) from `+t.Name+` where `+col+
		` is not null group by 1`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s Slot
		var n int64
		if err := rows.Scan(&s, &n); err != nil {
			return err
		}
		if _, mine := into[s]; mine {
			into[s] += n
		}
	}
	return rows.Err()
}

// Limits of one shard. 0: no limit.
type Limits struct {
	Rows  int64
	Bytes int64
	// Load is a share of all operations, 0 to 1.
	Load float64
	// Fill is how full a relieved shard is and a target becomes at most, as a part of the limit. 0: 0.8.
	Fill float64
}

// Suggest returns the plan that relieves the shards that are over a limit: it takes slots from them, those with most
// rows first, until they are filled to Limits.Fill, and gives each to the shard with most room. An empty plan: none is
// over. ErrNoRoom: the others cannot take them. A slot's bytes and load are estimated by its share of the shard's rows,
// its hot keys counted for what they are; a single key that is too hot needs Pin.
func (c *Cluster) Suggest(ctx context.Context, l Limits) (Plan, error) {
	if l.Rows < 0 || l.Bytes < 0 || l.Load < 0 || l.Load > 1 {
		return Plan{}, errors.New("shard: Limits.Rows, Bytes or Load is out of range")
	}
	if l.Fill < 0 || l.Fill > 1 {
		return Plan{}, errors.New("shard: Limits.Fill is not between 0 and 1")
	}
	if l.Fill == 0 {
		l.Fill = 0.8
	}
	usage, err := c.Usage(ctx)
	if err != nil {
		return Plan{}, err
	}
	v := c.view.Load()
	hot := map[Slot]float64{} // share of the shard's operations
	for _, h := range c.HotKeys(hotTop * len(usage)) {
		hot[h.Slot] += h.Share
	}
	return suggest(v.Epoch(), usage, hot, l)
}

// suggest is a pure function, for tests.
func suggest(epoch uint64, usage []Usage, hot map[Slot]float64, l Limits) (Plan, error) {
	full := func(u *Usage) float64 { // 1 is at the limit
		f := 0.0
		if l.Rows > 0 {
			f = max(f, float64(u.Rows)/float64(l.Rows))
		}
		if l.Bytes > 0 {
			f = max(f, float64(u.Bytes)/float64(l.Bytes))
		}
		if l.Load > 0 {
			f = max(f, u.Load/l.Load)
		}
		return f
	}
	p := Plan{Epoch: epoch}
	for i := range usage {
		u := &usage[i]
		if full(u) <= 1 {
			continue
		}
		slots := make([]Slot, 0, len(u.slots))
		cold := 1.0
		for s := range u.slots {
			slots = append(slots, s)
			cold -= hot[s]
		}
		slices.SortFunc(slots, func(a, b Slot) int {
			return cmp.Or(cmp.Compare(hot[b], hot[a]), cmp.Compare(u.slots[b], u.slots[a]), cmp.Compare(a, b))
		})
		rows, bytes, load, n := u.Rows, u.Bytes, u.Load, len(slots)
		for _, s := range slots {
			if full(u) <= l.Fill {
				break
			}
			part := 1 / float64(n)
			if rows > 0 {
				part = float64(u.slots[s]) / float64(rows)
			}
			give := Usage{Rows: u.slots[s], Bytes: int64(part * float64(bytes)),
				Load: load * (hot[s] + max(cold, 0)/float64(n))}
			if to := roomiest(usage, i, give, full, l.Fill); to >= 0 {
				t := &usage[to]
				t.Rows, t.Bytes, t.Load = t.Rows+give.Rows, t.Bytes+give.Bytes, t.Load+give.Load
				u.Rows, u.Bytes, u.Load = u.Rows-give.Rows, u.Bytes-give.Bytes, u.Load-give.Load
				p.Moves = append(p.Moves, SlotMove{s, u.Shard, t.Shard})
				p.Rows += give.Rows
			}
		}
		if f := full(u); f > 1 {
			return Plan{}, fmt.Errorf("%w: %s would still be at %.0f %% of its limit", ErrNoRoom, u.Shard, 100*f)
		}
	}
	p.sort()
	return p, nil
}

// roomiest is the shard that is emptiest after it got the slot, or -1 when none stays within fill.
func roomiest(usage []Usage, from int, give Usage, full func(*Usage) float64, fill float64) int {
	best, least := -1, fill
	for i, u := range usage {
		if i == from {
			continue
		}
		u.Rows, u.Bytes, u.Load = u.Rows+give.Rows, u.Bytes+give.Bytes, u.Load+give.Load
		if f := full(&u); f <= least {
			best, least = i, f
		}
	}
	return best
}
