package replica

import "errors"

var (
	// ErrNoPrimary: a write, or a read that had to go to the primary, found no usable primary.
	ErrNoPrimary = errors.New("replica: no primary")
	// ErrNoReplica: the context asked for a replica and none is usable.
	ErrNoReplica = errors.New("replica: no replica")
	// ErrSplitBrain: two nodes accept writes on the same timeline; writes are refused until one of them stops.
	ErrSplitBrain = errors.New("replica: split brain")
	// ErrCommitUnknown: the connection was lost after a write was sent. It may or may not have happened; it was not
	// retried.
	ErrCommitUnknown = errors.New("replica: commit outcome unknown")
	// ErrTxLost: the node of a transaction went away, or ceased to be the primary, before the commit was sent. Nothing
	// of the transaction happened; run it again. The error has SafeToRetry() bool, like those of pgconn, and shard.Tx
	// does so by itself.
	ErrTxLost = errors.New("replica: transaction lost before its commit")
	// ErrSpillLimit: no replica is usable and the primary already serves Options.SpillLimit reads in their place.
	ErrSpillLimit = errors.New("replica: too many reads spilled to the primary")
	// ErrUnknownNode: no node has this name.
	ErrUnknownNode = errors.New("replica: unknown node")
	// ErrDuplicateNode: a node of this name exists.
	ErrDuplicateNode = errors.New("replica: duplicate node name")
	// ErrClosed: the cluster was closed.
	ErrClosed = errors.New("replica: cluster closed")
	// ErrToken: a freshness token is malformed or its signature does not match.
	ErrToken = errors.New("replica: invalid freshness token")
	// ErrPromotion: a promotion was refused or failed; the message says at which step.
	ErrPromotion = errors.New("replica: promotion refused")
	// ErrForeignConn: Raw was given a connection that is not the cluster's.
	ErrForeignConn = errors.New("replica: not a connection of a replica cluster")
)

// txLost is ErrTxLost with its cause.
type txLost struct{ cause error }

func (e *txLost) Error() string     { return ErrTxLost.Error() + ": " + e.cause.Error() }
func (e *txLost) Unwrap() []error   { return []error{ErrTxLost, unbad(e.cause)} }
func (e *txLost) SafeToRetry() bool { return true }
