package shard

import (
	"context"
	"database/sql"
)

// Map says which shard owns which slot at one epoch. Immutable; lookups take no lock and allocate nothing.
type Map struct{}

// Slots is the number of hashed slots, a power of two.
func (m *Map) Slots() int { return 0 }

// Epoch rises with each change.
func (m *Map) Epoch() uint64 { return 0 }

// Slot of a text key.
func (m *Map) Slot(key string) Slot { return 0 }

// SlotUint64 of an integer key.
func (m *Map) SlotUint64(id uint64) Slot { return 0 }

// SlotOf any key, pinned ones included.
func (m *Map) SlotOf(k Key) Slot { return 0 }

// Owner of a slot, "" when it has none.
func (m *Map) Owner(s Slot) ID { return "" }

// Shards in the map's order.
func (m *Map) Shards() []ID { return nil }

// Counts is the number of hashed slots per shard.
func (m *Map) Counts() map[ID]int { return nil }

// State is the stored form of a Map.
type State struct {
	Epoch       uint64          `json:"epoch"`
	HashVersion int             `json:"hash_version"`
	Slots       int             `json:"slots"`
	Shards      []ID            `json:"shards"`
	Weights     map[ID]float64  `json:"weights,omitempty"`
	Owners      []uint16        `json:"owners"`         // index into Shards per slot
	Pins        map[string]Slot `json:"pins,omitempty"` // pinned key -> its own slot, >= Slots
	PinOwners   map[Slot]uint16 `json:"pin_owners,omitempty"`
	Job         *JobState       `json:"job,omitempty"` // the move in progress
	Token       uint64          `json:"token"`         // mover token: the highest handed out
	Modulo      int             `json:"modulo,omitempty"`
}

// A MapStore keeps the State. Implementations are safe for concurrent use; a State handed out or in is not modified.
type MapStore interface {
	// Load returns the state; ErrNoMap when there is none yet.
	Load(ctx context.Context) (*State, error)
	// CompareAndSwap stores next if the stored epoch is old (0: none stored), else ErrConflict. It must be durable when it returns nil.
	CompareAndSwap(ctx context.Context, old uint64, next *State) error
}

// MemoryStore keeps the state in this process, for tests and for shards that live in it.
func MemoryStore() MapStore { return nil }

// SQLStore keeps the state as one row of the table tk_map in db, which it creates.
func SQLStore(db *sql.DB, d Dialect) MapStore { return nil }
