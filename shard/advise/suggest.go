package advise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tierkit/tierkit/shard"
)

// ErrNoRoom is returned when no set of moves brings every shard under its limits: add a shard.
var ErrNoRoom = errors.New("advise: there is not enough room on the shards")

// Limits of one shard. Zero means no limit.
type Limits struct {
	Rows  int64
	Bytes int64
	// Load is a share of all operations, 0 to 1.
	Load float64
	// Fill is how full a relieved shard is and a target becomes at most, as a part of the limit. Zero means
	// 0.8.
	Fill float64
}

// Suggest returns the plan that relieves the shards that are over a limit: it takes slots from them, those with most
// rows first, until they are filled to Limits.Fill, and gives each to the shard with most room. An empty plan: none is
// over. ErrNoRoom: the others cannot take them. A slot's bytes and load are estimated by its share of the shard's rows,
// its hot keys counted for what they are; a single key that is too hot needs Pin.
func Suggest(ctx context.Context, c *shard.Cluster, l Limits) (shard.Plan, error) {
	if l.Rows < 0 || l.Bytes < 0 || l.Load < 0 || l.Load > 1 {
		return shard.Plan{}, errors.New("advise: Limits.Rows, Bytes or Load is out of range")
	}
	if l.Fill < 0 || l.Fill > 1 {
		return shard.Plan{}, errors.New("advise: Limits.Fill is not between 0 and 1")
	}
	if l.Fill == 0 {
		l.Fill = 0.8
	}
	usage, err := Measure(ctx, c)
	if err != nil {
		return shard.Plan{}, err
	}
	hot := map[shard.Slot]float64{} // share of the shard's operations
	for _, h := range c.HotKeys(math.MaxInt) {
		hot[h.Slot] += h.Share
	}
	return suggest(c.Map().Epoch(), usage, hot, l)
}

// balance moves slots between shards on paper.
type balance struct {
	usage []Usage
	hot   map[shard.Slot]float64 // share of its shard's operations
	l     Limits
	plan  shard.Plan
}

// suggest is a pure function, for tests. It changes usage.
func suggest(epoch uint64, usage []Usage, hot map[shard.Slot]float64, l Limits) (shard.Plan, error) {
	b := &balance{usage: usage, hot: hot, l: l, plan: shard.Plan{Epoch: epoch}}
	for i := range usage {
		if b.full(&usage[i]) <= 1 {
			continue
		}
		b.relieve(i)
		if f := b.full(&usage[i]); f > 1 {
			return shard.Plan{}, fmt.Errorf("%w: %s would still be at %.0f %% of its limit", ErrNoRoom, usage[i].Shard,
				100*f)
		}
	}
	slices.SortFunc(b.plan.Moves, func(a, b shard.SlotMove) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Slot, b.Slot))
	})
	return b.plan, nil
}

// full is how full a shard is by the limit that it is nearest to: 1 is at the limit.
func (b *balance) full(u *Usage) float64 {
	f := 0.0
	if b.l.Rows > 0 {
		f = max(f, float64(u.Rows)/float64(b.l.Rows))
	}
	if b.l.Bytes > 0 {
		f = max(f, float64(u.Bytes)/float64(b.l.Bytes))
	}
	if b.l.Load > 0 {
		f = max(f, u.Load/b.l.Load)
	}
	return f
}

// relieve takes slots from a shard, the hottest first and then those with most rows, until it is filled to Limits.Fill
// or no other shard has room.
func (b *balance) relieve(from int) {
	u := &b.usage[from]
	slots := make([]shard.Slot, 0, len(u.slots))
	cold := 1.0
	for s := range u.slots {
		slots = append(slots, s)
		cold -= b.hot[s]
	}
	slices.SortFunc(slots, func(x, y shard.Slot) int {
		return cmp.Or(cmp.Compare(b.hot[y], b.hot[x]), cmp.Compare(u.slots[y], u.slots[x]), cmp.Compare(x, y))
	})
	rows, bytes, load, n := u.Rows, u.Bytes, u.Load, len(slots)
	for _, s := range slots {
		if b.full(u) <= b.l.Fill {
			return
		}
		part := 1 / float64(n)
		if rows > 0 {
			part = float64(u.slots[s]) / float64(rows)
		}
		give := Usage{Rows: u.slots[s], Bytes: int64(part * float64(bytes)),
			Load: load * (b.hot[s] + max(cold, 0)/float64(n))}
		if to := b.roomiest(from, give); to >= 0 {
			t := &b.usage[to]
			t.Rows, t.Bytes, t.Load = t.Rows+give.Rows, t.Bytes+give.Bytes, t.Load+give.Load
			u.Rows, u.Bytes, u.Load = u.Rows-give.Rows, u.Bytes-give.Bytes, u.Load-give.Load
			b.plan.Moves = append(b.plan.Moves, shard.SlotMove{Slot: s, From: u.Shard, To: t.Shard})
			b.plan.Rows += give.Rows
		}
	}
}

// roomiest is the shard that is emptiest after it got the slot, or -1 when none stays within Limits.Fill.
func (b *balance) roomiest(from int, give Usage) int {
	best, least := -1, b.l.Fill
	for i, u := range b.usage {
		if i == from {
			continue
		}
		u.Rows, u.Bytes, u.Load = u.Rows+give.Rows, u.Bytes+give.Bytes, u.Load+give.Load
		if f := b.full(&u); f <= least {
			best, least = i, f
		}
	}
	return best
}
