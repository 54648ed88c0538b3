// Package ids makes 64-bit ids that sort by time and carry the slot of their row, without a round trip: see New. Lease
// gives each generator its node number through a database.
package ids

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tierkit/tierkit/shard"
)

var (
	// ErrNoNode is returned when all node numbers are leased, or the lease ran out.
	ErrNoNode = errors.New("ids: no node number")
	// ErrClock is returned when the clock is too far behind the last id given out.
	ErrClock = errors.New("ids: clock went backwards")
)

// Generator makes 64-bit ids that sort by time and carry their slot: 41 bits of milliseconds since 2024-01-01 UTC
// (until 2093), 14 of slot, 8 of sequence. Of one slot that is 256 ids a millisecond, shared by its generators. Safe
// for concurrent use.
type Generator struct {
	o     Options
	mu    sync.Mutex // guards what follows
	ms    int64      // of the last id
	seq   [1 << slotBits]uint8
	stamp [1 << slotBits]int64 // the millisecond that seq counts in
}

const (
	slotBits = 14
	seqBits  = 8
)

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Options configure New.
type Options struct {
	// Node tells the generators of one slot apart: the sequence is split between up to 1<<NodeBits of them.
	Node     int
	NodeBits int // 0 to 4
	// Floor is the highest time this generator may have used before a restart; ids begin after it. Store
	// Generator.Mark now and then, plus the interval at which you do.
	Floor time.Time
	// MaxWait bounds how long Next waits for a clock that went backwards, or for the next millisecond when the slot's
	// sequence is used up. Zero means 100 ms.
	MaxWait time.Duration
}

// New returns a generator. Generators that run at the same time need different Nodes.
func New(o Options) (*Generator, error) {
	if o.NodeBits < 0 || o.NodeBits > 4 {
		return nil, fmt.Errorf("ids: Options.NodeBits %d is not 0 to 4", o.NodeBits)
	}
	if o.Node < 0 || o.Node >= 1<<o.NodeBits {
		return nil, fmt.Errorf("ids: Options.Node %d does not fit %d bits", o.Node, o.NodeBits)
	}
	if o.MaxWait < 0 {
		return nil, fmt.Errorf("ids: Options.MaxWait %v is negative", o.MaxWait)
	}
	if o.MaxWait == 0 {
		o.MaxWait = 100 * time.Millisecond
	}
	g := &Generator{o: o}
	if !o.Floor.IsZero() {
		g.ms = max(o.Floor.Sub(epoch).Milliseconds(), 0)
		for i := range g.stamp {
			g.stamp[i] = g.ms
			g.seq[i] = 1<<seqBits - 1 // that millisecond is used up
		}
	}
	return g, nil
}

// Next returns a new id in the slot. ErrClock when the clock is further behind than MaxWait.
func (g *Generator) Next(s shard.Slot) (int64, error) {
	if s < 0 || s >= 1<<slotBits {
		return 0, fmt.Errorf("ids: slot %d does not fit an id", s)
	}
	var deadline time.Time
	for {
		id, ok := g.try(s, time.Since(epoch).Milliseconds())
		if ok {
			return id, nil
		}
		now := time.Now()
		if deadline.IsZero() {
			deadline = now.Add(g.o.MaxWait)
		}
		if now.After(deadline) {
			return 0, ErrClock
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// try makes an id of the millisecond now, or fails: when the clock is behind the last id, or the slot's part of the
// sequence is used up.
func (g *Generator) try(s shard.Slot, now int64) (int64, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now < g.ms {
		return 0, false
	}
	first := uint8(g.o.Node << (seqBits - g.o.NodeBits))
	last := first + uint8(1<<(seqBits-g.o.NodeBits)-1)
	seq := first
	if g.stamp[s] == now && now != 0 {
		if g.seq[s] >= last {
			return 0, false
		}
		seq = g.seq[s] + 1
	}
	g.ms, g.stamp[s], g.seq[s] = now, now, seq
	return now<<(slotBits+seqBits) | int64(s)<<seqBits | int64(seq), true
}

// Mark returns a time that no id given out so far is after.
func (g *Generator) Mark() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return epoch.Add(time.Duration(g.ms) * time.Millisecond)
}

// SlotOf returns the slot in an id.
func SlotOf(id int64) shard.Slot { return shard.Slot(id >> seqBits & (1<<slotBits - 1)) }

// TimeOf returns when an id was made, to the millisecond.
func TimeOf(id int64) time.Time {
	return epoch.Add(time.Duration(id>>(slotBits+seqBits)) * time.Millisecond)
}
