package sqlite

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
	"github.com/tierkit/tierkit/internal/backoff"
)

// shipBatch is the number of records in one message.
const shipBatch = 512

// peer is a primary's view of one replica.
type peer struct {
	to    *Node
	acked atomic.Uint64 // sequence number up to which it has fsynced our log
	wake  chan struct{} // holds one
}

var (
	errNeedSnapshot = errors.New("sqlite: the logs differ")
	// errCut is no verdict on the sender: the promotion may be called off.
	errCut = errors.New("sqlite: replication is cut")
)

// lead makes the node the primary of an epoch: it applies what it has, begins the epoch in its log and ships it.
func (e *engine) lead(ctx context.Context, epoch uint64) error {
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	if err := e.apply(ctx); err != nil {
		return err
	}
	err := e.pass(ctx, func() error {
		e.order.Lock()
		defer e.order.Unlock()
		if epoch <= e.promised.Load() && e.log.last().seq > 0 {
			return ErrStale
		}
		e.promised.Store(epoch)
		e.cut = false
		return e.log.append([]record{{epoch: epoch, seq: e.log.last().seq + 1}}, true)
	})
	if err != nil {
		return err
	}
	if err := e.apply(ctx); err != nil {
		return err
	}
	var peers []*peer
	for _, n := range e.n.c.nodes {
		if n != e.n {
			peers = append(peers, &peer{to: n, wake: make(chan struct{}, 1)})
		}
	}
	e.peers = peers
	e.stopped.Store(false)
	e.leading.Store(epoch)
	for _, p := range peers {
		e.wg.Go(func() { e.send(p, epoch) })
	}
	return nil
}

// stop ends writing: the outcome of a commit is unknown, or a higher epoch exists.
func (e *engine) stop() { e.stopped.Store(true) }

func (e *engine) active(epoch uint64) bool {
	return e.ctx.Err() == nil && e.leading.Load() == epoch && !e.stopped.Load()
}

// send ships the log to one replica for as long as the node leads the epoch.
func (e *engine) send(p *peer, epoch uint64) {
	policy := backoff.Policy{Base: 5 * time.Millisecond, Max: 100 * time.Millisecond}
	next, known := uint64(0), false
	for failures := 0; e.active(epoch); {
		err := e.pass(e.ctx, func() error { return nil }) // a frozen primary ships nothing
		if err == nil && !known {
			next, err = e.handshake(p, epoch)
			known = err == nil
		}
		if err == nil && known {
			next, err = e.shipFrom(p, epoch, next)
		}
		switch {
		case err == nil:
			failures = 0
			select {
			case <-p.wake:
			case <-e.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond): // heartbeat: notices a replica that was restarted
				known = p.to.engine.Load().follows(epoch)
			}
		case errors.Is(err, ErrStale):
			e.stop()
			return
		default:
			known = false
			failures++
			_ = backoff.Sleep(e.ctx, policy.Delay(failures))
		}
	}
}

func (e *engine) link(to *Node) error {
	if l := e.n.c.opts.Link; l != nil {
		return l(e.ctx, e.n.cfg.ID, to.cfg.ID)
	}
	return nil
}

// handshake finds where the replica's log leaves off. A log that is not a prefix of ours is replaced by a snapshot.
func (e *engine) handshake(p *peer, epoch uint64) (next uint64, err error) {
	if err := e.link(p.to); err != nil {
		return 0, err
	}
	r := p.to.engine.Load()
	var last position
	err = r.pass(e.ctx, func() error {
		last, err = r.follow(epoch)
		return err
	})
	if err != nil {
		return 0, err
	}
	if e.log.has(last) {
		p.ack(last.seq, e)
		return last.seq + 1, nil
	}
	if last, err = e.snapshotTo(p, r, epoch); err != nil {
		return 0, err
	}
	p.ack(last.seq, e)
	return last.seq + 1, nil
}

func (p *peer) ack(seq uint64, e *engine) {
	p.acked.Store(seq)
	e.group.ackedSome()
}

// snapshotTo copies our database, as of its last applied record, into the replica.
func (e *engine) snapshotTo(p *peer, r *engine, epoch uint64) (position, error) {
	tmp := filepath.Join(p.to.cfg.Dir, "snapshot.tmp")
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return position{}, err
	}
	src, err := openSQLite(e.n.cfg.Dir, true)
	if err != nil {
		return position{}, err
	}
	_, err = run(e.ctx, src, "pragma query_only = 0")
	if err == nil {
		_, err = run(e.ctx, src, "vacuum into '"+strings.ReplaceAll(tmp, "'", "''")+"'")
	}
	_ = src.Close()
	if err != nil {
		return position{}, err
	}
	at, err := snapshotPosition(e.ctx, tmp)
	if err != nil {
		return position{}, err
	}
	return at, r.pass(e.ctx, func() error { return r.install(e.ctx, tmp, at, epoch) })
}

func snapshotPosition(ctx context.Context, file string) (position, error) {
	c, err := sqliteDriver().Open("file:" + file)
	if err != nil {
		return position{}, err
	}
	defer c.Close()
	return readState(ctx, c)
}

// shipFrom sends everything from next on and returns what comes after it.
func (e *engine) shipFrom(p *peer, epoch, next uint64) (uint64, error) {
	for e.active(epoch) {
		recs, err := e.log.read(next, shipBatch)
		if err != nil || len(recs) == 0 {
			return next, err
		}
		prev, err := e.log.before(next)
		if err != nil {
			return next, err
		}
		if err := e.link(p.to); err != nil {
			return next, err
		}
		r := p.to.engine.Load()
		if err := r.pass(e.ctx, func() error { return r.receive(epoch, prev, recs) }); err != nil {
			return next, err
		}
		next += uint64(len(recs))
		// The acknowledgement passes our own gate: a frozen primary does not hear it.
		if err := e.pass(e.ctx, func() error { p.ack(next-1, e); return nil }); err != nil {
			return next, err
		}
	}
	return next, nil
}

// follow is the replica's side of the handshake.
func (e *engine) follow(epoch uint64) (position, error) {
	e.order.Lock()
	defer e.order.Unlock()
	promised := e.promised.Load()
	if epoch < promised || epoch == promised && e.leading.Load() == epoch {
		return position{}, ErrStale
	}
	if e.cut && epoch == promised {
		return position{}, errCut
	}
	e.cut = false
	// a former primary: what it applied is in the new history, what it only logged may not be
	if old := e.leading.Swap(0); old != 0 {
		e.stopped.Store(false)
	}
	e.promised.Store(epoch)
	if e.broken {
		return position{epoch, math.MaxUint64}, nil // in nobody's log
	}
	e.following = true
	return e.log.last(), nil
}

func (e *engine) follows(epoch uint64) bool {
	e.order.Lock()
	defer e.order.Unlock()
	return e.following && e.promised.Load() == epoch
}

// receive appends records to the replica's log and fsyncs them. It returns when they are durable.
func (e *engine) receive(epoch uint64, prev position, recs []record) error {
	if e.ctx.Err() != nil {
		return gate.ErrDead
	}
	e.order.Lock()
	defer e.order.Unlock()
	if epoch < e.promised.Load() {
		return ErrStale
	}
	if e.cut {
		return errCut
	}
	if e.log.last() != prev || !e.following {
		return errNeedSnapshot
	}
	if err := e.log.append(recs, true); err != nil {
		return err
	}
	select {
	case e.appended <- struct{}{}:
	default:
	}
	return nil
}

// before is the position in front of a record.
func (l *logFile) before(seq uint64) (position, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch i := int64(seq) - int64(l.base.seq) - 2; {
	case i == -1:
		return l.base, nil
	case i >= 0 && i < int64(len(l.epochs)):
		return position{l.epochs[i], seq - 1}, nil
	}
	return position{}, errNeedSnapshot
}
