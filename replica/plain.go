package replica

import (
	"context"
	"database/sql/driver"
	"time"
)

// PlainHooks give the Plain dialect what its driver can do. Every hook is optional.
type PlainHooks struct {
	// Name of the dialect. Default "plain".
	Name string
	// Probe asks a node. nil: a ping through driver.Pinger, and roles are those of Node.Role.
	Probe func(ctx context.Context, c driver.Conn) (NodeState, error)
	// Capture returns the position of the last commit. nil: no read-your-writes by position; a session that wrote reads from the primary.
	Capture func(ctx context.Context, c driver.Conn) (Position, error)
	// Reached waits until c shows want. nil: never.
	Reached func(ctx context.Context, c driver.Conn, want Position, budget time.Duration) (bool, error)
	// Covers compares. nil: same system, timeline not lower, offset not lower.
	Covers func(have, want Position) bool
	// Kind sorts errors. nil: driver.ErrBadConn is KindRefused, everything else KindOther.
	Kind func(err error) ErrorKind
	// Volatile names functions that must not run on a replica, besides the built-in list.
	Volatile []string
	// Cut, Promote and Follow enable promotion when all three are set; see Promoter.
	Cut     func(ctx context.Context, c driver.Conn) (NodeState, error)
	Promote func(ctx context.Context, c driver.Conn) (NodeState, error)
	Follow  func(ctx context.Context, c driver.Conn, primary Node) error
}

// Plain is the dialect for drivers whose roles are fixed or come from hooks, such as SQLite nodes with their own log shipping.
func Plain(h PlainHooks) Dialect { return nil }
