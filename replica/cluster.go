package replica

import (
	"context"
	"database/sql"
	"database/sql/driver"
)

// A Cluster is a primary and its replicas behind one driver.Connector. Safe for concurrent use.
type Cluster struct {
	db *sql.DB
}

// New starts probing the nodes and returns at once; the first statements wait for the first probes.
// Errors name the field that is wrong.
func New(d Dialect, nodes []Node, o Options) (*Cluster, error) { return nil, ErrClosed }

// DB returns the cluster as a *sql.DB. It is made once; Close closes it too.
func (c *Cluster) DB() *sql.DB { return c.db }

// Connect implements driver.Connector. It opens nothing yet: physical connections are borrowed per statement.
func (c *Cluster) Connect(ctx context.Context) (driver.Conn, error) { return nil, ErrClosed }

// Driver implements driver.Connector.
func (c *Cluster) Driver() driver.Driver { return nil }

// Close stops the probes and closes all idle physical connections. Idempotent.
func (c *Cluster) Close() error { return nil }

// WaitReady returns when a usable primary is known, or with the context's error.
func (c *Cluster) WaitReady(ctx context.Context) error { return nil }

// Status returns the cluster as seen now.
func (c *Cluster) Status() Status { return Status{} }

// Add adds a node at run time. It serves reads once it was probed and has caught up.
func (c *Cluster) Add(n Node) error { return nil }

// Drain stops giving the node new work and waits until its connections have been returned, or for the context.
func (c *Cluster) Drain(ctx context.Context, name string) error { return nil }

// Remove forgets a node. Connections in use are closed when they are returned.
func (c *Cluster) Remove(name string) error { return nil }

// Promote makes the most advanced standby the primary, as the automatic promotion would, on the word of an operator.
// to may name the standby; "" chooses. It needs Options.Promotion.
func (c *Cluster) Promote(ctx context.Context, to string) (PromotionReport, error) {
	return PromotionReport{}, ErrPromotion
}

// Explanation says where a statement goes and why.
type Explanation struct {
	Class  Class
	Reason string
	// Learned: the statement was once refused by a replica and goes to the primary since.
	Learned bool
	// Nodes it may run on now, the usual first choice first.
	Nodes []string
}

// Explain says where a statement would go without a session or override.
func (c *Cluster) Explain(query string) Explanation { return Explanation{} }

// RecoveryPlan is what to do on the host of a lost or diverged node; it is printed, never run.
type RecoveryPlan struct {
	Node string
	// Diverged is the position up to which the node and the present primary share their history.
	Diverged Position
	// LossBytes is how much the node holds beyond that.
	LossBytes int64
	// Steps in order, commands for the database host's shell.
	Steps []RecoveryStep
}

// RecoveryStep is one command with the reason for it.
type RecoveryStep struct{ Why, Command string }

// RecoveryPlan returns the steps that bring a former primary back as a replica: export what only it has, then rewind
// it, else copy it anew. Printing is all it does. ErrUnknownNode when there is no such node.
func (c *Cluster) RecoveryPlan(node string) (RecoveryPlan, error) {
	return RecoveryPlan{}, ErrUnknownNode
}

// Raw gives f the physical driver connection of conn, which stays pinned to it until conn is closed. Without a choice made before
// it is a connection to the primary. ErrForeignConn when conn is not of a Cluster.
func Raw(ctx context.Context, conn *sql.Conn, f func(driverConn any) error) error {
	return ErrForeignConn
}
