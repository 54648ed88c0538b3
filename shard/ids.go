package shard

import "time"

// IDs makes 64-bit ids that sort by time and carry their slot: 41 bits of milliseconds since IDEpoch, 14 of slot, 8 of sequence.
// Safe for concurrent use.
type IDs struct{}

// IDEpoch is where ids begin to count: 2024-01-01 UTC.
var idEpoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// IDOptions configure NewIDs.
type IDOptions struct {
	// Node tells the generators of one slot apart: the sequence is split between up to 1<<NodeBits of them.
	Node     int
	NodeBits int // 0 to 4
	// Floor is the highest time this generator may have used before a restart; ids begin after it. Store IDs.Mark now and then.
	Floor time.Time
	// MaxWait bounds how long Next waits for a clock that went backwards. 0: 100 ms.
	MaxWait time.Duration
}

// NewIDs returns a generator.
func NewIDs(o IDOptions) (*IDs, error) { return &IDs{}, nil }

// Next returns a new id in the slot. ErrClock when the clock is further behind than MaxWait.
func (g *IDs) Next(s Slot) (int64, error) { return 0, nil }

// Mark is a time that no id given out so far is after.
func (g *IDs) Mark() time.Time { return time.Time{} }

// SlotOfID returns the slot in an id.
func SlotOfID(id int64) Slot { return 0 }

// TimeOfID returns when an id was made, to the millisecond.
func TimeOfID(id int64) time.Time { return idEpoch }
