// Package sqlite replicates a SQLite database over the nodes of the full-stack example by shipping its log of
// statements.
//
// It exists so that the example runs with nothing installed but Go, and still has a primary that can be killed and
// replicas that can be promoted. It is not a product: use PostgreSQL or MySQL replication.
//
// One writer logs (epoch, sequence, statements with arguments). A commit is shipped, written and fsynced by at least
// one replica, committed locally, then acknowledged; transactions that commit at the same time share one shipment and
// one fsync. When no replica answers in time the commit fails with [ErrCommitUnknown] and the primary refuses writes
// from then on; its sequence numbers are never used again. Replicas refuse lower epochs. A former primary is rebuilt
// from the new one. Statements that are not deterministic are refused with [ErrNondeterministic], because every node
// runs them again.
//
// Every acknowledged transaction is in the log of the primary and of one replica, so of three nodes any two hold it
// between them: a promotion (by package replica, through Cluster.Dialect) needs two that answer, and takes the one that
// is further.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
	"github.com/tierkit/tierkit/replica"
)

var (
	// ErrCommitUnknown: no replica confirmed in time. The transaction may be kept or lost by the next primary.
	ErrCommitUnknown = errors.New("sqlite: commit outcome unknown")
	// ErrNotPrimary: a write reached a node that is a replica or has stopped writing. Nothing was executed.
	ErrNotPrimary = errors.New("sqlite: not the primary")
	// ErrNondeterministic: the statement could give another result on another node.
	ErrNondeterministic = errors.New("sqlite: statement is not deterministic")
	// ErrStale: a shipment or promotion came with an epoch lower than one already seen.
	ErrStale = errors.New("sqlite: stale epoch")
)

// NodeConfig is one node of a Cluster.
type NodeConfig struct {
	ID   string
	Zone string
	Dir  string     // its database and log; default Options.Dir/ID
	Gate *gate.Gate // default: an own one
}

// Options configure a Cluster.
type Options struct {
	// Name of the replicated database: the system id of its positions. Default "sqlite".
	Name string
	// Dir holds one directory per node.
	Dir string
	// Nodes, the first is the primary of a new cluster. At least 1; 3 for failover.
	Nodes []NodeConfig
	// CommitTimeout is how long a commit waits for a replica. 0: 1 s.
	CommitTimeout time.Duration
	// Link, when set, is asked before each message between two nodes; an error cuts the link. For chaos.
	Link func(ctx context.Context, from, to string) error
	// NoFsync trusts the page cache: safe against kill -9 of the process, not against the loss of power.
	NoFsync bool
}

// Cluster is a set of nodes in one process. Safe for concurrent use.
type Cluster struct {
	opts  Options
	nodes []*Node

	mu     sync.Mutex // guards epoch, closed
	epoch  uint64     // the highest given out or found on disk
	closed bool
}

// Open opens or creates the nodes and resumes from their directories: the node whose log is furthest becomes the
// primary, the others catch up with it or are rebuilt.
func Open(o Options) (*Cluster, error) {
	if len(o.Nodes) == 0 {
		return nil, errors.New("sqlite: Options.Nodes is empty")
	}
	if o.Name == "" {
		o.Name = "sqlite"
	}
	if o.CommitTimeout <= 0 {
		o.CommitTimeout = time.Second
	}
	c := &Cluster{opts: o}
	for _, cfg := range o.Nodes {
		if cfg.ID == "" {
			return nil, errors.New("sqlite: NodeConfig.ID is empty")
		}
		if c.Node(cfg.ID) != nil {
			return nil, fmt.Errorf("sqlite: two nodes are called %s", cfg.ID)
		}
		if cfg.Dir == "" {
			cfg.Dir = filepath.Join(o.Dir, cfg.ID)
		}
		if cfg.Gate == nil {
			cfg.Gate = gate.New()
		}
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, &Node{c: c, cfg: cfg})
	}
	var first *engine
	for _, n := range c.nodes {
		e, err := openEngine(n)
		if err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("sqlite: open %s: %w", n.cfg.ID, err)
		}
		n.engine.Store(e)
		c.epoch = max(c.epoch, e.log.last().epoch, e.promised.Load())
		if first == nil || first.log.last().behind(e.log.last()) {
			first = e
		}
	}
	if err := first.lead(context.Background(), c.nextEpoch()); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) nextEpoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	return c.epoch
}

// Nodes returns the nodes in the order of the options.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Node returns the node with the id, or nil.
func (c *Cluster) Node(id string) *Node {
	for _, n := range c.nodes {
		if n.cfg.ID == id {
			return n
		}
	}
	return nil
}

// Primary returns the node that leads the highest epoch, or nil; it may be dead or stopped.
func (c *Cluster) Primary() *Node {
	var best *Node
	var epoch uint64
	for _, n := range c.nodes {
		if e := n.engine.Load(); e != nil && e.leading.Load() > epoch {
			best, epoch = n, e.leading.Load()
		}
	}
	return best
}

// Replicas returns the nodes as replica.Nodes, ready for replica.New(c.Dialect(), c.Replicas(), ...).
func (c *Cluster) Replicas() []replica.Node {
	out := make([]replica.Node, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = replica.Node{Name: n.cfg.ID, Zone: n.cfg.Zone, Connector: n.Connector(), ConnInfo: n.cfg.ID}
	}
	return out
}

// Restart opens a killed node again from its directory, as a new process would. It follows the present primary, which
// sends it what it lacks, or a snapshot when its log holds what the primary's does not.
func (c *Cluster) Restart(ctx context.Context, id string) error {
	n := c.Node(id)
	if n == nil {
		return fmt.Errorf("sqlite: unknown node %s", id)
	}
	n.cfg.Gate.Kill()
	if e := n.engine.Load(); e != nil {
		e.close()
	}
	n.cfg.Gate.Revive() // lets nothing through yet: the old life is over, and the new one is not known
	e, err := openEngine(n)
	if err != nil {
		return err
	}
	n.engine.Store(e)
	return nil
}

// Quiesce waits until all live nodes have applied everything the primary has committed.
func (c *Cluster) Quiesce(ctx context.Context) error {
	for {
		p := c.Primary()
		if p != nil {
			want := p.engine.Load().applied()
			done := true
			for _, n := range c.nodes {
				if n.cfg.Gate.State() == gate.Open && n.engine.Load().applied() != want {
					done = false
				}
			}
			if done {
				return nil
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Checksums returns a hash of the contents of each live node's database; equal after Quiesce.
func (c *Cluster) Checksums(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	for _, n := range c.nodes {
		if n.cfg.Gate.State() != gate.Open {
			continue
		}
		conn, err := openSQLite(n.cfg.Dir, true)
		if err != nil {
			return nil, err
		}
		sum, err := checksum(ctx, conn)
		_ = conn.Close()
		if err != nil {
			return nil, err
		}
		out[n.cfg.ID] = sum
	}
	return out, nil
}

// Close closes all nodes. Idempotent.
func (c *Cluster) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	for _, n := range c.nodes {
		if e := n.engine.Load(); e != nil {
			e.close()
		}
	}
	return nil
}
