package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeNode is a database of one number: "write" raises it, "select" returns it with the node's name.
type fakeNode struct {
	name     string
	world    *fakeWorld
	down     atomic.Bool
	broken   atomic.Bool // connections break in the middle of a statement
	frozen   atomic.Bool
	primary  atomic.Bool
	timeline atomic.Uint64
	pos      atomic.Uint64
	received atomic.Uint64
	cut      atomic.Bool
	slow     atomic.Int64 // how long the answer to a probe is under way, nanoseconds
	open     atomic.Int64
	queries  atomic.Int64
	prepares atomic.Int64
	commits  atomic.Int64
	reset    func() error // what a pooled connection does when it is taken out
	commit   func() error // what a commit does
}

type fakeWorld struct {
	mu    sync.Mutex
	nodes []*fakeNode
	// lag stops replication.
	lag atomic.Bool
	// heard is when the standbys last heard from their primary; 0: they do not.
	heard atomic.Int64
	// noTimelines: nodes do not tell theirs.
	noTimelines bool
}

var errFakeLost = fmt.Errorf("fake: %w", syscall.ECONNRESET)

var errFakeReadOnly = errors.New("fake: read-only")

func newWorld(names ...string) *fakeWorld {
	w := &fakeWorld{}
	for i, n := range names {
		f := &fakeNode{name: n, world: w}
		f.timeline.Store(1)
		f.primary.Store(i == 0)
		w.nodes = append(w.nodes, f)
	}
	return w
}

func (w *fakeWorld) config() (nodes []Node) {
	for _, f := range w.nodes {
		nodes = append(nodes, Node{Name: f.name, Connector: f})
	}
	return nodes
}

func (w *fakeWorld) dialect() Dialect {
	state := func(c driver.Conn) NodeState {
		f := c.(*fakeConn).f
		st := NodeState{Role: RoleReplica, Replayed: Position{System: "w", Timeline: f.timeline.Load(),
			Offset: f.pos.Load()}}
		if f.primary.Load() {
			st.Role = RolePrimary
		}
		if w.noTimelines {
			st.Replayed.Timeline = 0
		}
		st.Received = st.Replayed
		st.Received.Offset = max(f.received.Load(), st.Received.Offset)
		return st
	}
	return Plain(PlainHooks{
		Probe: func(ctx context.Context, c driver.Conn) (NodeState, error) {
			if err := c.(*fakeConn).alive(ctx); err != nil {
				return NodeState{}, err
			}
			st := state(c)
			time.Sleep(time.Duration(c.(*fakeConn).f.slow.Load()))
			return st, nil
		},
		Capture: func(ctx context.Context, c driver.Conn) (Position, error) { return state(c).Replayed, nil },
		Reached: nil,
		Kind: func(err error) ErrorKind {
			if errors.Is(err, errFakeReadOnly) {
				return KindReadOnly
			}
			return KindOther
		},
		Cut: func(ctx context.Context, c driver.Conn) (NodeState, error) {
			c.(*fakeConn).f.cut.Store(true)
			return state(c), nil
		},
		Promote: func(ctx context.Context, c driver.Conn) (NodeState, error) {
			f := c.(*fakeConn).f
			f.timeline.Add(1)
			f.pos.Store(max(f.pos.Load(), f.received.Load()))
			f.primary.Store(true)
			return state(c), nil
		},
		Heard: func(context.Context, driver.Conn) (time.Duration, bool, error) {
			at := w.heard.Load()
			return time.Since(time.Unix(0, at)), at != 0, nil
		},
		Follow: func(ctx context.Context, c driver.Conn, p Node) error {
			c.(*fakeConn).f.cut.Store(false)
			return nil
		},
	})
}

func (f *fakeNode) Driver() driver.Driver { return nil }
func (f *fakeNode) Connect(ctx context.Context) (driver.Conn, error) {
	if f.down.Load() {
		return nil, fmt.Errorf("fake: %w", syscall.ECONNREFUSED)
	}
	f.open.Add(1)
	return &fakeConn{f: f}, nil
}

type fakeConn struct {
	f      *fakeNode
	dead   bool
	closed bool
	inTx   bool
}

func (c *fakeConn) alive(ctx context.Context) error {
	if c.f.frozen.Load() {
		<-ctx.Done()
		c.dead = true
		return ctx.Err()
	}
	if c.f.down.Load() || c.dead {
		c.dead = true
		return io.ErrUnexpectedEOF
	}
	if c.f.broken.Load() {
		c.dead = true
		return syscall.ECONNRESET
	}
	return nil
}

func (c *fakeConn) Prepare(q string) (driver.Stmt, error) {
	c.f.prepares.Add(1)
	return &fakeStmt{c, q}, nil
}

func (c *fakeConn) Close() error {
	if !c.closed {
		c.closed = true
		c.f.open.Add(-1)
	}
	return nil
}
func (c *fakeConn) Begin() (driver.Tx, error) { return nil, errors.New("fake: no Begin") }
func (c *fakeConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if err := c.alive(ctx); err != nil {
		return nil, err
	}
	c.inTx = true
	return &fakeTx{c, ctx}, nil
}
func (c *fakeConn) ResetSession(context.Context) error {
	if c.dead {
		return driver.ErrBadConn
	}
	if c.f.reset != nil {
		return c.f.reset()
	}
	return nil
}
func (c *fakeConn) IsValid() bool                            { return !c.dead }
func (c *fakeConn) CheckNamedValue(*driver.NamedValue) error { return nil }

func (c *fakeConn) QueryContext(ctx context.Context, q string, _ []driver.NamedValue) (driver.Rows, error) {
	if err := c.alive(ctx); err != nil {
		return nil, err
	}
	c.f.queries.Add(1)
	if q == "select refused()" && !c.f.primary.Load() {
		return nil, errFakeReadOnly
	}
	if c.f.primary.Load() && len(q) > 5 && q[:5] == "write" {
		c.write()
	}
	return &fakeRows{vals: []driver.Value{c.f.name, int64(c.f.pos.Load())}}, nil
}

func (c *fakeConn) write() {
	w := c.f.world
	w.mu.Lock()
	defer w.mu.Unlock()
	n := c.f.pos.Add(1)
	for _, o := range w.nodes {
		if o != c.f && !o.primary.Load() && !w.lag.Load() && !o.cut.Load() && !o.down.Load() && !o.frozen.Load() {
			o.pos.Store(n)
			o.timeline.Store(c.f.timeline.Load())
		}
	}
}

func (c *fakeConn) ExecContext(ctx context.Context, q string, _ []driver.NamedValue) (driver.Result, error) {
	if err := c.alive(ctx); err != nil {
		return nil, err
	}
	if !c.f.primary.Load() {
		return nil, errFakeReadOnly
	}
	c.write()
	return driver.RowsAffected(1), nil
}

type fakeTx struct {
	c   *fakeConn
	ctx context.Context
}

func (t *fakeTx) Commit() error {
	t.c.inTx = false
	t.c.f.commits.Add(1)
	if f := t.c.f.commit; f != nil {
		return f()
	}
	return t.c.alive(t.ctx)
}
func (t *fakeTx) Rollback() error { t.c.inTx = false; return nil }

type fakeStmt struct {
	c *fakeConn
	q string
}

func (s *fakeStmt) Close() error                               { return nil }
func (s *fakeStmt) NumInput() int                              { return -1 }
func (s *fakeStmt) Exec([]driver.Value) (driver.Result, error) { return nil, errors.New("fake") }
func (s *fakeStmt) Query([]driver.Value) (driver.Rows, error)  { return nil, errors.New("fake") }
func (s *fakeStmt) QueryContext(ctx context.Context, a []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.q, a)
}
func (s *fakeStmt) ExecContext(ctx context.Context, a []driver.NamedValue) (driver.Result, error) {
	return s.c.ExecContext(ctx, s.q, a)
}

type fakeRows struct {
	vals []driver.Value
	done bool
}

func (r *fakeRows) Columns() []string { return []string{"node", "pos"} }
func (r *fakeRows) Close() error      { return nil }
func (r *fakeRows) Next(d []driver.Value) error {
	if r.done {
		return io.EOF
	}
	r.done = true
	copy(d, r.vals)
	return nil
}
