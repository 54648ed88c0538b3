// Package stored is what a map store keeps: which shard owns which slot, and the move in progress. Package shard reads
// it, package mover changes it. A State that was handed out or stored is not modified; Clone it first.
package stored

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Slot is the unit of placement. Slots below State.Slots are the hashed ones, those from there on belong to one key
// each.
type Slot int32

// ErrConflict is returned by a compare-and-swap that found another epoch.
var ErrConflict = errors.New("shard: map changed")

// State is a map and its job. The JSON form is the stored form.
type State struct {
	// Epoch rises by one with every stored change.
	Epoch       uint64          `json:"epoch"`
	HashVersion int             `json:"hash_version"`
	Slots       int             `json:"slots"`
	Shards      []string        `json:"shards"`
	Owners      Owners          `json:"owners"`               // index into Shards by slot
	Pins        map[string]Slot `json:"pins,omitempty"`       // slot of a pinned or assigned key
	PinOwners   map[Slot]uint16 `json:"pin_owners,omitempty"` // index into Shards of such a slot
	// Modulo, RangeWidth and Directory describe the placement; all are zero where keys are hashed.
	Modulo     int   `json:"modulo,omitempty"`
	RangeWidth int64 `json:"range_width,omitempty"`
	Directory  bool  `json:"directory,omitempty"`
	// Lease is the longest Options.MapTTL of the processes that ever opened the map.
	Lease time.Duration `json:"lease"`
	// Token is the highest mover token handed out.
	Token uint64 `json:"token"`
	Job   *Job   `json:"job,omitempty"` // the move in progress
}

// Owners marshals to two bytes per slot in base64.
type Owners []uint16

// MarshalText implements encoding.TextMarshaler.
func (o Owners) MarshalText() ([]byte, error) {
	b := make([]byte, 2*len(o))
	for i, v := range o {
		binary.LittleEndian.PutUint16(b[2*i:], v)
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Owners) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil || len(b)%2 != 0 {
		return errors.New("shard: bad owners")
	}
	*o = make(Owners, len(b)/2)
	for i := range *o {
		(*o)[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return nil
}

// Clone returns a copy that may be modified, but for the moves of its job, which are shared.
func (s *State) Clone() *State {
	n := *s
	n.Shards, n.Owners = slices.Clone(s.Shards), slices.Clone(s.Owners)
	n.Pins, n.PinOwners = maps.Clone(s.Pins), maps.Clone(s.PinOwners)
	if s.Job != nil {
		j := *s.Job
		n.Job = &j
	}
	return &n
}

// Next returns a copy with the following epoch.
func (s *State) Next() *State {
	n := s.Clone()
	n.Epoch++
	return n
}

// Announced returns the slots that may be fenced, or given another number, while this is the state.
func (s *State) Announced() map[Slot]bool {
	j := s.Job
	if j == nil {
		return nil
	}
	out := map[Slot]bool{}
	if j.Phase == Pinning {
		out[j.Pin.Old] = true
	}
	for _, m := range j.Moves[j.Done:max(j.Done, j.Announced)] {
		out[m.Slot] = true
	}
	return out
}

// SetOwner hands a slot over.
func (s *State) SetOwner(slot Slot, to string) error {
	i := slices.Index(s.Shards, to)
	if i < 0 {
		i = len(s.Shards)
		s.Shards = append(s.Shards, to)
	}
	if int(slot) < s.Slots {
		s.Owners[slot] = uint16(i)
		return nil
	}
	if _, ok := s.PinOwners[slot]; !ok {
		return fmt.Errorf("shard: slot %d does not exist", slot)
	}
	s.PinOwners[slot] = uint16(i)
	return nil
}

// SetPin gives a key a slot of its own on a shard.
func (s *State) SetPin(key string, slot Slot, on string) error {
	if s.Pins == nil {
		s.Pins, s.PinOwners = map[string]Slot{}, map[Slot]uint16{}
	}
	s.Pins[key], s.PinOwners[slot] = slot, 0
	return s.SetOwner(slot, on)
}

// FreeSlot returns the first slot that no key has had.
func (s *State) FreeSlot() Slot {
	slot := Slot(s.Slots)
	for _, p := range s.Pins {
		slot = max(slot, p+1)
	}
	return slot
}

// RemoveEmptyShards removes the shards that own nothing, so that they need not be given to New any more.
func (s *State) RemoveEmptyShards() {
	used := map[uint16]bool{}
	for _, o := range s.Owners {
		used[o] = true
	}
	for _, o := range s.PinOwners {
		used[o] = true
	}
	var shards []string
	now := make([]uint16, len(s.Shards))
	for i, id := range s.Shards {
		if now[i] = uint16(len(shards)); used[uint16(i)] {
			shards = append(shards, id)
		}
	}
	if len(shards) == len(s.Shards) || len(shards) == 0 {
		return
	}
	s.Shards = shards
	for i, o := range s.Owners {
		s.Owners[i] = now[o]
	}
	for slot, o := range s.PinOwners {
		s.PinOwners[slot] = now[o]
	}
}
