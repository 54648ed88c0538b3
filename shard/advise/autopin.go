package advise

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tierkit/tierkit/shard"
)

// AutoPinOptions configure AutoPin.
type AutoPinOptions struct {
	// Share of its shard's operations from which a key is pinned, 0 to 1. Zero means 0.25.
	Share float64
	// Max is the number of pinned keys from which on AutoPin does nothing, at most 1024. Zero means 16.
	Max int
	// Move are the options of the job.
	Move shard.MoveOptions
}

// AutoPin pins the hottest key, if it takes more than its share and is not pinned yet, to the shard with the lowest
// load, by what this process routed; nil, nil when there is nothing to do. Call it from time to time, in one process:
// each call begins at most one job. ErrMoving while another is in progress.
func AutoPin(ctx context.Context, c *shard.Cluster, o AutoPinOptions) (*shard.Job, error) {
	if o.Share < 0 || o.Share > 1 || o.Max < 0 || o.Max > 1024 {
		return nil, fmt.Errorf("advise: AutoPinOptions.Share %v or Max %d is out of range", o.Share, o.Max)
	}
	if o.Share == 0 {
		o.Share = 0.25
	}
	if o.Max == 0 {
		o.Max = 16
	}
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	hot := c.HotKeys(math.MaxInt)
	if hot == nil {
		return nil, errors.New("advise: AutoPin needs shard.Options.HotKeys")
	}
	m := c.Map()
	if m.Moving() {
		return nil, shard.ErrMoving
	}
	if m.Pins() >= o.Max {
		return nil, nil
	}
	for _, h := range hot {
		if m.Pinned(h.Key) || h.Share < o.Share {
			continue
		}
		to := leastRouted(c, m, h.Shard)
		if to == "" {
			return nil, nil
		}
		return c.Pin(ctx, h.Key, to, o.Move)
	}
	return nil, nil
}

// leastRouted is the shard of the map, other than not, to which this process routed the fewest operations; "" when
// there is no other.
func leastRouted(c *shard.Cluster, m *shard.Map, not shard.ID) shard.ID {
	var best *shard.ShardStats
	in := m.Shards()
	for _, s := range c.Stats().Shards {
		id := shard.ID(s.Shard)
		if id != not && slices.Contains(in, id) && (best == nil || s.Routed < best.Routed) {
			best = &s
		}
	}
	if best == nil {
		return ""
	}
	return shard.ID(best.Shard)
}
