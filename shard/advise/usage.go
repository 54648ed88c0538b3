package advise

import (
	"context"
	"fmt"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/dialects"
)

// Usage is how full one shard is.
type Usage struct {
	Shard shard.ID
	// Rows of the managed tables, of the slots that the shard owns.
	Rows int64
	// Bytes of the whole database, as it says itself.
	Bytes int64
	// Load is the shard's share of the operations that this process routed since it began, 0 to 1.
	Load float64

	slots map[shard.Slot]int64 // rows
}

// Measure asks all shards of the cluster, those without slots included. It counts rows, so it takes as long as an index
// scan of every table.
func Measure(ctx context.Context, c *shard.Cluster) ([]Usage, error) {
	d := dialects.ByName(c.Dialect().Name())
	if d == nil {
		return nil, fmt.Errorf("%w: Options.Dialect is needed to count rows", shard.ErrPreflight)
	}
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	m := c.Map()
	routed := map[shard.ID]uint64{}
	for _, s := range c.Stats().Shards {
		routed[shard.ID(s.Shard)] = s.Routed
	}
	var out []Usage
	total := 0.0
	for _, sh := range c.Shards() {
		u := Usage{Shard: sh.ID, Load: float64(routed[sh.ID]), slots: map[shard.Slot]int64{}}
		total += u.Load
		err := func() (err error) {
			if u.Bytes, err = d.Bytes(ctx, sh.DB); err != nil {
				return err
			}
			for _, s := range m.Owned(sh.ID) {
				u.slots[s] = 0
			}
			if len(u.slots) == 0 {
				return nil
			}
			for _, t := range c.Tables() {
				if err := countSlots(ctx, d, sh, t, u.slots); err != nil {
					return err
				}
			}
			return nil
		}()
		if err != nil {
			return nil, fmt.Errorf("advise: usage of %s: %w", sh.ID, err)
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

const countRows = `
select {slot}, count(*)
from {table}
where {slot} is not null
group by 1`

func countSlots(ctx context.Context, d sqldb.Text, sh shard.Shard, t shard.Table, into map[shard.Slot]int64) error {
	rows, err := sh.DB.QueryContext(ctx, sqldb.Fill(countRows, "table", t.Name, "slot", d.Quote(t.SlotColumn)))
	return sqldb.Each(rows, err, func() error {
		var s shard.Slot
		var n int64
		if err := rows.Scan(&s, &n); err != nil {
			return err
		}
		if _, mine := into[s]; mine {
			into[s] += n
		}
		return nil
	})
}
