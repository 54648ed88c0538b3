package shard

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tierkit/tierkit/shard/internal/mover"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// Errors of routing and transactions.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("shard: closed")
	// ErrCrossShard is returned when a transaction touches a key of another shard.
	ErrCrossShard = errors.New("shard: key belongs to another shard")
	// ErrUnassigned is returned for a key that a map with placement Directory does not name.
	ErrUnassigned = errors.New("shard: key is not assigned to a shard")
	// ErrUnknownShard is returned for an ID that the cluster was not given.
	ErrUnknownShard = errors.New("shard: unknown shard")
	// ErrFenced is returned when the slot was still being handed over after Options.Retry.
	ErrFenced = errors.New("shard: slot is being moved")
	// ErrOutcomeUnknown is returned when a Do or DoMany succeeded, but took longer than Options.MapTTL, and the slot's
	// rows left the shard meanwhile: its statements may or may not have found them. It is not repeated. Read the rows,
	// or repeat the operation if that does no harm.
	ErrOutcomeUnknown = errors.New("shard: it is not known whether the operation took effect")
	// ErrRowCap is returned when a scatter query would return more rows than Query.MaxRows.
	ErrRowCap = errors.New("shard: row cap exceeded")
)

// Errors of maps and moves.
var (
	// ErrNoMap is returned by a MapStore that is empty.
	ErrNoMap = errors.New("shard: no map stored")
	// ErrConflict is returned when the map was changed meanwhile.
	ErrConflict = stored.ErrConflict
	// ErrHashVersion is returned for a map that was made with another hash function than this build's.
	ErrHashVersion = errors.New("shard: map was made with another hash version")
	// ErrMoving is returned while a job is in progress.
	ErrMoving = errors.New("shard: a move is in progress")
	// ErrPreflight is returned when a move cannot begin. The message says why.
	ErrPreflight = sqldb.ErrPreflight
	// ErrMoverLost is returned when another mover took the job over.
	ErrMoverLost = sqldb.ErrMoverLost
	// ErrVerify is returned when source and target differ. The slots were not handed over.
	ErrVerify = mover.ErrVerify
	// ErrSchemaChanged is returned when a managed table was altered during a move.
	ErrSchemaChanged = mover.ErrSchemaChanged
	// ErrNotHeld is returned by Complete and Rollback of a job that is not reversible, or not so far.
	ErrNotHeld = mover.ErrNotHeld
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
