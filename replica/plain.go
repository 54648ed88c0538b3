package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"
)

// PlainHooks give the Plain dialect what its driver can do. Every hook is optional.
type PlainHooks struct {
	// Name of the dialect. Default "plain".
	Name string
	// Probe asks a node. nil: a ping through driver.Pinger, and roles are those of Node.Role.
	Probe func(ctx context.Context, c driver.Conn) (NodeState, error)
	// Capture returns the position of the last commit. nil: no read-your-writes by position; a session that wrote reads
	// from the primary.
	Capture func(ctx context.Context, c driver.Conn) (Position, error)
	// Reached waits until c shows want. nil: never.
	Reached func(ctx context.Context, c driver.Conn, want Position, budget time.Duration) (bool, error)
	// Covers compares. nil: same system, timeline not lower, offset not lower.
	Covers func(have, want Position) bool
	// Kind sorts errors; return KindOther to leave it to the built-in rules for network errors. nil: only those.
	Kind func(err error) ErrorKind
	// Volatile names functions that must not run on a replica, besides the built-in list.
	Volatile []string
	// Cut, Promote and Follow enable promotion when all three are set; see Promoter.
	Cut     func(ctx context.Context, c driver.Conn) (NodeState, error)
	Promote func(ctx context.Context, c driver.Conn) (NodeState, error)
	Follow  func(ctx context.Context, c driver.Conn, primary Node) error
	// Heard asks a standby how long ago it heard from its primary (false: it is not connected to one). With it, a
	// process that is cut off from a living primary does not promote.
	Heard func(ctx context.Context, c driver.Conn) (ago time.Duration, connected bool, err error)
}

// Plain is the dialect for drivers whose roles are fixed or come from hooks, such as SQLite nodes with their own log
// shipping.
func Plain(h PlainHooks) Dialect {
	d := &plain{h: h, volatile: map[string]struct{}{}}
	for _, f := range h.Volatile {
		d.volatile[f] = struct{}{}
	}
	d.grammar = grammar{
		syntax:   syntax{brackets: true},
		volatile: func(name []byte) bool { _, ok := d.volatile[string(name)]; return ok },
		session: func(name []byte) bool {
			switch string(name) {
			case "last_insert_rowid", "changes", "total_changes", "load_extension":
				return true
			}
			return false
		},
	}
	if h.Cut != nil && h.Promote != nil && h.Follow != nil {
		return &plainPromoter{d}
	}
	return d
}

type plain struct {
	h        PlainHooks
	volatile map[string]struct{}
	grammar  grammar
}

func (d *plain) Name() string {
	if d.h.Name != "" {
		return d.h.Name
	}
	return "plain"
}

func (d *plain) Classify(query string) Verdict { return d.grammar.classify(query) }

func (d *plain) Probe(ctx context.Context, c driver.Conn) (NodeState, error) {
	if d.h.Probe != nil {
		return d.h.Probe(ctx, c)
	}
	if p, ok := c.(driver.Pinger); ok {
		if err := p.Ping(ctx); err != nil {
			return NodeState{}, err
		}
	}
	return NodeState{}, nil // the role is Node.Role
}

func (d *plain) Capture(ctx context.Context, c driver.Conn) (Position, error) {
	if d.h.Capture != nil {
		return d.h.Capture(ctx, c)
	}
	return Position{}, errors.New("replica: the dialect has no positions")
}

func (d *plain) Reached(ctx context.Context, c driver.Conn, want Position, budget time.Duration) (bool, error) {
	if d.h.Reached != nil {
		return d.h.Reached(ctx, c, want, budget)
	}
	return false, nil
}

func (d *plain) Covers(have, want Position) bool {
	if d.h.Covers != nil {
		return d.h.Covers(have, want)
	}
	return have.System == want.System && have.Timeline >= want.Timeline && have.Offset >= want.Offset
}

func (d *plain) Kind(err error) ErrorKind {
	if d.h.Kind != nil {
		if k := d.h.Kind(err); k != KindOther {
			return k
		}
	}
	k, _ := netKind(err)
	return k
}

type plainPromoter struct{ *plain }

func (d *plainPromoter) Cut(ctx context.Context, c driver.Conn) (NodeState, error) {
	return d.h.Cut(ctx, c)
}

func (d *plainPromoter) lastHeard(ctx context.Context, c driver.Conn) (time.Duration, bool, error) {
	if d.h.Heard == nil {
		return 0, false, nil
	}
	return d.h.Heard(ctx, c)
}

func (d *plainPromoter) Promote(ctx context.Context, c driver.Conn) (NodeState, error) {
	return d.h.Promote(ctx, c)
}

func (d *plainPromoter) Follow(ctx context.Context, c driver.Conn, primary Node) error {
	return d.h.Follow(ctx, c, primary)
}
