package shard

import (
	"context"
	"database/sql"
)

// Query is a question to all shards.
type Query[T any] struct {
	// SQL and Args run on every shard. With Order and Limit it should have the same ORDER BY, and LIMIT Limit+Offset.
	SQL  string
	Args []any
	// Slot is the name or the position (from 0) of no column; rows are filtered by ownership through SlotOf.
	// Scan reads one row. Required.
	Scan func(rows *sql.Rows) (T, error)
	// SlotOf returns the slot of a row, to leave out rows that a move has copied but not yet handed over, or handed over
	// but not yet cleaned up. nil: no row is left out, so ask only while no move is in progress.
	SlotOf func(T) Slot
	// Less orders the merged result; every shard's rows must come in this order. nil: no order.
	Less func(a, b T) bool
	// Offset and Limit apply to the merged result. Limit 0: none.
	Offset, Limit int
	// MaxRows fails with ErrRowCap when one shard returns more. 0: 100000; negative: no cap.
	MaxRows int
	// Partial accepts the failure of some shards; Result.Failed names them. All failing is still an error.
	Partial bool
}

// Result of a scatter query.
type Result[T any] struct {
	Rows   []T
	Failed map[ID]error // only with Partial
	Epoch  uint64       // of the map that decided ownership
}

// Scatter asks all shards in parallel and merges. It fails with a *PartialError when any shard fails, unless q.Partial.
func Scatter[T any](ctx context.Context, c *Cluster, q Query[T]) (Result[T], error) {
	return Result[T]{}, ErrClosed
}
