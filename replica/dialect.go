package replica

import (
	"context"
	"database/sql/driver"
	"time"
)

// A Dialect knows one kind of server: how its SQL reads, how to ask it for its role and position, and what its errors
// mean. All methods are called concurrently. Methods that take a connection own it until they return.
type Dialect interface {
	// Name is short and stable: "postgres", "mysql", "plain".
	Name() string
	// Classify says where a statement may run. It must be pure and must not retain query.
	Classify(query string) Verdict
	// Probe asks a node for its role and positions, in one round trip if possible.
	Probe(ctx context.Context, c driver.Conn) (NodeState, error)
	// Capture returns a position that covers everything committed on this connection so far. Called on the primary
	// after a commit.
	Capture(ctx context.Context, c driver.Conn) (Position, error)
	// Reached waits up to budget until reads on c see want; false (and no error) when they do not by then.
	Reached(ctx context.Context, c driver.Conn, want Position, budget time.Duration) (bool, error)
	// Covers reports whether a node at have shows everything up to want. Different systems never cover each other.
	Covers(have, want Position) bool
	// Kind sorts an error of the driver.
	Kind(err error) ErrorKind
}

// A Promoter is a Dialect that can change roles. A dialect without it can only observe.
type Promoter interface {
	// Cut stops a standby from receiving from its primary and returns its final positions. It must be idempotent.
	Cut(ctx context.Context, c driver.Conn) (NodeState, error)
	// Promote turns the standby into a primary and returns when it accepts writes.
	Promote(ctx context.Context, c driver.Conn) (NodeState, error)
	// Follow points a standby to a new primary.
	Follow(ctx context.Context, c driver.Conn, primary Node) error
}

// ErrorKind is what an error of a driver means for routing.
type ErrorKind uint8

const (
	// KindOther: the statement's own fault, or unknown. Passed on.
	KindOther ErrorKind = iota
	// KindReadOnly: a write was refused because the node is a replica (SQLSTATE 25006, MySQL 1290). Nothing was
	// executed.
	KindReadOnly
	// KindRefused: the node cannot be reached; nothing was sent.
	KindRefused
	// KindLost: the connection broke, and what was sent may have been executed.
	KindLost
	// KindConflict: the replica cancelled the read because of replay (SQLSTATE 40001/57014 in recovery); another node
	// may run it.
	KindConflict
)

// Class is where a statement may run.
type Class uint8

const (
	// ClassWrite: only the primary. The zero value, so that what is unknown is safe.
	ClassWrite Class = iota
	// ClassRead: any node.
	ClassRead
	// ClassSession: the primary, and it changes session state: the physical connection is pinned.
	ClassSession
)

func (c Class) String() string {
	switch c {
	case ClassRead:
		return "read"
	case ClassSession:
		return "session"
	}
	return "write"
}

// Verdict is a class and the reason for it.
type Verdict struct {
	Class Class
	// Reason is one short phrase: "insert inside with", "for update", "volatile function nextval".
	Reason string
}
