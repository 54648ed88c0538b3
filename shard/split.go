package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// Parts are the n keys that a key is split into when one database cannot bear its writes: key#0 to key#n-1, each with a
// slot, and so mostly a shard, of its own. Write to Part, which takes one of them; read them all with DoMany and add
// up. For a counter of a celebrity's likes that is n times the writes. For reads write a copy under each part, and read
// Part. n below 2: the key itself.
func Parts(k Key, n int) []Key {
	if n < 2 {
		return []Key{k}
	}
	out := make([]Key, n)
	for i := range out {
		out[i] = part(k, i)
	}
	return out
}

// Part is one of the key's parts, at random.
func Part(k Key, n int) Key {
	if n < 2 {
		return k
	}
	return part(k, rand.IntN(n))
}

func part(k Key, i int) Key { return String(k.String() + "#" + strconv.Itoa(i)) }

// AutoPinOptions configure AutoPin.
type AutoPinOptions struct {
	// Share of its shard's operations from which a key is pinned, 0 to 1. 0: 0.25.
	Share float64
	// Max is the number of pinned keys from which on AutoPin does nothing. 0: 16.
	Max int
	// Move are the options of the job.
	Move MoveOptions
}

// AutoPin pins the hottest key, if it takes more than its share and is not pinned yet, to the shard with the lowest
// load, by what this process routed; nil, nil when there is nothing to do. Call it from time to time, in one process:
// each call begins at most one job. ErrMoving while another is in progress.
func (c *Cluster) AutoPin(ctx context.Context, o AutoPinOptions) (*Job, error) {
	if o.Share < 0 || o.Share > 1 || o.Max < 0 || o.Max > maxPins {
		return nil, fmt.Errorf("shard: AutoPinOptions.Share %v or Max %d is out of range", o.Share, o.Max)
	}
	if o.Share == 0 {
		o.Share = 0.25
	}
	if o.Max == 0 {
		o.Max = 16
	}
	if c.opts.HotKeys < 0 {
		return nil, errors.New("shard: AutoPin needs Options.HotKeys")
	}
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	v := c.view.Load()
	if v.st.Job != nil {
		return nil, ErrMoving
	}
	if len(v.st.Pins) >= o.Max {
		return nil, nil
	}
	for _, h := range c.HotKeys(hotTop * len(v.dbs)) {
		if _, pinned := v.st.Pins[h.Key.pin()]; pinned || h.Share < o.Share {
			continue
		}
		var to *shardState
		for _, sh := range v.dbs {
			if sh.ID != h.Shard && (to == nil || sh.routed.Load() < to.routed.Load()) {
				to = sh
			}
		}
		if to == nil {
			return nil, nil
		}
		return c.Pin(ctx, h.Key, to.ID, o.Move)
	}
	return nil, nil
}
