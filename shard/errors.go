package shard

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrCrossShard: a transaction touched a key of another shard.
	ErrCrossShard = errors.New("shard: key belongs to another shard")
	// ErrUnknownShard: no shard has this id.
	ErrUnknownShard = errors.New("shard: unknown shard")
	// ErrNoMap: the map store is empty.
	ErrNoMap = errors.New("shard: no map stored")
	// ErrConflict: the map was changed by somebody else.
	ErrConflict = errors.New("shard: map changed")
	// ErrHashVersion: the stored map was made with another hash function or number of slots.
	ErrHashVersion = errors.New("shard: map was made with another hash version")
	// ErrFenced: the slot is being handed over, and was still so when the retries of Do or Tx ended.
	ErrFenced = errors.New("shard: slot is being moved")
	// ErrOutcomeUnknown: a Do or DoMany succeeded, but took longer than Options.Lease, and meanwhile the slot's rows
	// left the shard. Nobody knows whether its statements found them. It is not repeated: read what is there, or repeat
	// it if that does no harm.
	ErrOutcomeUnknown = errors.New("shard: it is not known whether the operation took effect")
	// ErrMoverLost: another mover took the job over.
	ErrMoverLost = errors.New("shard: another mover took over")
	// ErrVerify: source and target differ; the cutover was not made.
	ErrVerify = errors.New("shard: copies differ")
	// ErrSchemaChanged: a managed table was altered during a move.
	ErrSchemaChanged = errors.New("shard: schema changed during the move")
	// ErrPreflight: the move cannot begin; the message says why.
	ErrPreflight = errors.New("shard: preflight failed")
	// ErrMoving: a job is already in progress.
	ErrMoving = errors.New("shard: a move is in progress")
	// ErrNotHeld: the job cannot be completed or rolled back: it is not reversible, or not so far.
	ErrNotHeld = errors.New("shard: the job is not reversible now")
	// ErrNoRoom: no set of moves brings every shard under its limits; add a shard.
	ErrNoRoom = errors.New("shard: there is not enough room on the shards")
	// ErrMigration: a migration was changed after it had run, or the shards' schemas differ.
	ErrMigration = errors.New("shard: migrations do not agree")
	// ErrUnassigned: the map is a directory and does not name the key.
	ErrUnassigned = errors.New("shard: key is not assigned to a shard")
	// ErrNoNode: no node number for ids: all are leased, or the lease ran out.
	ErrNoNode = errors.New("shard: no node number")
	// ErrRowCap: a scatter query would return more rows than allowed.
	ErrRowCap = errors.New("shard: row cap exceeded")
	// ErrClock: the clock is too far behind the last id given out.
	ErrClock = errors.New("shard: clock went backwards")
	// ErrClosed: the cluster was closed.
	ErrClosed = errors.New("shard: closed")
)

// PartialError names the shards that failed.
type PartialError struct{ Failed map[ID]error }

func (e *PartialError) Error() string {
	var b strings.Builder
	b.WriteString("shard: failed on")
	for id, err := range e.Failed {
		fmt.Fprintf(&b, " %s (%v)", id, err)
	}
	return b.String()
}

// Unwrap lets errors.Is look into every shard's error.
func (e *PartialError) Unwrap() []error {
	out := make([]error, 0, len(e.Failed))
	for _, err := range e.Failed {
		out = append(out, err)
	}
	return out
}
