package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
)

// Node is one SQLite database with its log.
type Node struct {
	c      *Cluster
	cfg    NodeConfig
	engine atomic.Pointer[engine]
}

// ID of the node.
func (n *Node) ID() string { return n.cfg.ID }

// Zone of the node.
func (n *Node) Zone() string { return n.cfg.Zone }

// Gate of the node: Kill, Freeze, Thaw.
func (n *Node) Gate() *gate.Gate { return n.cfg.Gate }

// NodeStatus of a node.
type NodeStatus struct {
	ID       string
	Primary  bool
	Epoch    uint64
	Received uint64 // sequence number of the last logged record
	Applied  uint64 // of the last record visible to readers
	Stopped  bool   // a primary that refuses writes after ErrCommitUnknown
}

// Status of the node; safe also when it is dead.
func (n *Node) Status() NodeStatus {
	e := n.engine.Load()
	return NodeStatus{ID: n.cfg.ID, Primary: e.leading.Load() > 0 && !e.stopped.Load(), Epoch: e.log.last().epoch,
		Received: e.log.last().seq, Applied: e.applied().seq, Stopped: e.stopped.Load()}
}

// engine is one life of a node, from its opening to its death.
type engine struct {
	n    *Node
	log  *logFile
	conn driver.Conn // the only connection that writes
	// token is held by whoever uses conn: a client's transaction, the flusher, the applier.
	token chan struct{}

	// leading is the epoch this node is the primary of, 0 for replicas.
	leading atomic.Uint64
	// stopped: a primary that refuses writes.
	stopped atomic.Bool
	// promised: appends of lower epochs are refused.
	promised atomic.Uint64

	order     sync.Mutex // guards what follows and the order of appends to the log; held during an append and its fsync
	cut       bool       // replication is cut for a promotion
	following bool
	broken    bool // a record could not be applied

	mu    sync.Mutex // guards what follows
	at    position   // applied
	moved chan struct{}
	reads map[*conn]struct{}

	appended chan struct{} // wakes the applier; holds one
	group    group
	peers    []*peer

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
}

var errClosed = errors.New("sqlite: node closed")

func openEngine(n *Node) (*engine, error) {
	e := &engine{n: n, token: make(chan struct{}, 1), moved: make(chan struct{}), appended: make(chan struct{}, 1),
		reads: map[*conn]struct{}{}}
	e.group.wake = make(chan struct{}, 1)
	var err error
	if e.log, err = openLog(n.cfg.Dir, !n.c.opts.NoFsync); err != nil {
		return nil, err
	}
	if e.conn, err = openSQLite(n.cfg.Dir, false); err != nil {
		_ = e.log.close()
		return nil, err
	}
	if e.at, err = readState(context.Background(), e.conn); err != nil {
		_ = e.conn.Close()
		_ = e.log.close()
		return nil, err
	}
	// a crash in the middle of installing a snapshot, or a log that lost its tail: go on from what the database has
	if !e.log.has(e.at) {
		if err := e.log.reset(e.at); err != nil {
			return nil, err
		}
	}
	e.promised.Store(max(e.log.last().epoch, e.at.epoch))
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	dead := n.cfg.Gate.Killed()
	e.wg.Go(func() {
		select {
		case <-dead:
			e.cancel(gate.ErrDead)
		case <-e.ctx.Done():
		}
	})
	e.wg.Go(e.applyLoop)
	e.wg.Go(e.flushLoop)
	return e, nil
}

func (e *engine) close() {
	e.once.Do(func() {
		e.cancel(errClosed)
		e.wg.Wait()
		e.token <- struct{}{} // nobody uses the connection any more; never given back
		_ = e.conn.Close()
		_ = e.log.close()
		e.closeReads()
	})
}

// closeReads breaks the connections that readers hold: the file under them is about to change.
func (e *engine) closeReads() {
	e.mu.Lock()
	reads := e.reads
	e.reads = map[*conn]struct{}{}
	e.mu.Unlock()
	for c := range reads {
		c.closeRead()
	}
}

// pass lets one effect of the node through its gate.
func (e *engine) pass(ctx context.Context, effect func() error) error {
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	return e.n.cfg.Gate.Pass(ctx, effect)
}

func (e *engine) applied() position {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at
}

func (e *engine) setApplied(p position) {
	e.mu.Lock()
	e.at = p
	close(e.moved)
	e.moved = make(chan struct{})
	e.mu.Unlock()
}

// waitApplied returns true when the record is visible to readers.
func (e *engine) waitApplied(ctx context.Context, p position) bool {
	for {
		e.mu.Lock()
		at, moved := e.at, e.moved
		e.mu.Unlock()
		if !at.behind(p) {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		case <-e.ctx.Done():
			return false
		}
	}
}

// take gets the token, in the order of asking.
func (e *engine) take(ctx context.Context) error {
	select {
	case e.token <- struct{}{}:
		return nil
	default:
	}
	select {
	case e.token <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return context.Cause(e.ctx)
	}
}

func (e *engine) give() { <-e.token }

// applyLoop makes logged records visible on a replica.
func (e *engine) applyLoop() {
	for {
		select {
		case <-e.appended:
		case <-e.ctx.Done():
			return
		}
		if e.take(e.ctx) != nil {
			return
		}
		var err error
		if e.leading.Load() == 0 { // a primary that stopped waits for a promotion to decide about its tail
			err = e.apply(e.ctx)
		}
		e.give()
		if err != nil && e.ctx.Err() == nil && !errors.Is(err, gate.ErrDead) {
			// Cannot happen with deterministic statements. The log is kept, it may be all that is left of what was
			// acknowledged; the next handshake asks for a snapshot.
			e.order.Lock()
			e.broken, e.following = true, false
			e.order.Unlock()
		}
	}
}

// apply runs the records that are logged and not applied. The caller holds the token.
func (e *engine) apply(ctx context.Context) error {
	e.abandon()
	for {
		at := e.applied()
		recs, err := e.log.read(at.seq+1, 256)
		if err != nil || len(recs) == 0 {
			return err
		}
		last := recs[len(recs)-1]
		to := position{last.epoch, last.seq}
		err = e.pass(ctx, func() error {
			bg := context.Background()
			if _, err := run(bg, e.conn, "begin immediate"); err != nil {
				return err
			}
			for _, r := range recs {
				for _, s := range r.stmts {
					if _, err := run(bg, e.conn, s.query, s.args...); err != nil {
						_, _ = run(bg, e.conn, "rollback")
						return err
					}
				}
			}
			if err := writeState(bg, e.conn, to); err != nil {
				_, _ = run(bg, e.conn, "rollback")
				return err
			}
			_, err := run(bg, e.conn, "commit")
			return err
		})
		if err != nil {
			return err
		}
		e.setApplied(to)
	}
}

// install replaces the node's database by a snapshot of a primary's. Called by its sender, through both gates.
func (e *engine) install(ctx context.Context, file string, at position, epoch uint64) error {
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	e.order.Lock()
	defer e.order.Unlock()
	if epoch < e.promised.Load() {
		return ErrStale
	}
	e.abandon()
	e.promised.Store(epoch)
	e.leading.Store(0)
	e.stopped.Store(false)
	e.closeReads()
	_ = e.conn.Close()
	dir := e.n.cfg.Dir
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(databaseFile(dir) + suffix); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := os.Rename(file, databaseFile(dir)); err != nil {
		return err
	}
	if d, err := os.Open(filepath.Clean(dir)); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
	var err error
	if e.conn, err = openSQLite(dir, false); err != nil {
		return err
	}
	if err := e.log.reset(at); err != nil {
		return err
	}
	e.broken = false
	e.setApplied(at)
	return nil
}
