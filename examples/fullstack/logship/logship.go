// Package logship replicates a SQLite database over the nodes of the full-stack example by shipping its log of statements.
//
// It exists so that the example runs with nothing installed but Go, and still has a primary that can be killed and replicas
// that can be promoted. It is not a product: use PostgreSQL or MySQL replication.
//
// One writer logs (epoch, sequence, statements with arguments). A commit is shipped, written and fsynced by at least one
// replica, committed locally, then acknowledged; transactions that commit at the same time share one shipment and one fsync. When
// no replica answers in time the commit fails with [ErrCommitUnknown] and the primary refuses writes from then on; its
// sequence numbers are never used again. Replicas refuse lower epochs. A former primary is rebuilt from the new one.
// Statements that are not deterministic are refused with [ErrNondeterministic], because every node runs them again.
package logship

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/gate"
	"github.com/tierkit/tierkit/replica"
)

var (
	// ErrCommitUnknown: no replica confirmed in time. The transaction may be kept or lost by the next primary.
	ErrCommitUnknown = errors.New("logship: commit outcome unknown")
	// ErrNotPrimary: a write reached a node that is a replica or has stopped writing. Nothing was executed.
	ErrNotPrimary = errors.New("logship: not the primary")
	// ErrNondeterministic: the statement could give another result on another node.
	ErrNondeterministic = errors.New("logship: statement is not deterministic")
	// ErrStale: a shipment or promotion came with an epoch lower than one already seen.
	ErrStale = errors.New("logship: stale epoch")
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
type Cluster struct{}

// Open opens or creates the nodes and resumes from their directories: the primary is the one with the highest epoch; others catch up.
func Open(o Options) (*Cluster, error) { return nil, errors.New("logship: not open") }

// Nodes returns the nodes in the order of the options.
func (c *Cluster) Nodes() []*Node { return nil }

// Node returns the node with the id, or nil.
func (c *Cluster) Node(id string) *Node { return nil }

// Replicas returns the nodes as replica.Nodes, ready for replica.New(c.Dialect(), c.Replicas(), ...).
func (c *Cluster) Replicas() []replica.Node { return nil }

// Dialect is the replica dialect with probes, positions and promotion of this cluster.
func (c *Cluster) Dialect() replica.Dialect { return nil }

// Restart opens a killed node again from its directory, as a new process would; a former primary is rebuilt
// (snapshot and log) from the present one and follows it.
func (c *Cluster) Restart(ctx context.Context, id string) error { return nil }

// Quiesce waits until all live nodes have applied everything the primary has committed.
func (c *Cluster) Quiesce(ctx context.Context) error { return nil }

// Checksums returns a hash of the contents of each live node's database; equal after Quiesce.
func (c *Cluster) Checksums(ctx context.Context) (map[string]string, error) { return nil, nil }

// Close closes all nodes. Idempotent.
func (c *Cluster) Close() error { return nil }

// Node is one SQLite database with its log.
type Node struct{}

// ID of the node.
func (n *Node) ID() string { return "" }

// Zone of the node.
func (n *Node) Zone() string { return "" }

// Gate of the node: Kill, Freeze, Thaw.
func (n *Node) Gate() *gate.Gate { return nil }

// Connector opens connections to this node: writes only on the primary (else ErrNotPrimary), reads on all.
func (n *Node) Connector() driver.Connector { return nil }

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
func (n *Node) Status() NodeStatus { return NodeStatus{} }
