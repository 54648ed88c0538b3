package replica

import (
	"database/sql/driver"
	"time"
)

// A Node is one database server.
type Node struct {
	// Name identifies the node in statuses, hooks and metrics. Required, unique in the cluster.
	Name string
	// Connector opens physical connections to this server and no other. Required.
	Connector driver.Connector
	// Admin opens connections that may change the server's role. Needed for promotion when the application's user may
	// not (PostgreSQL: a superuser; MariaDB: READ_ONLY ADMIN and REPLICATION SLAVE ADMIN; MySQL: SUPER). nil:
	// Connector.
	Admin driver.Connector
	// Weight is the node's share of reads relative to the other replicas. 0 means 1; negative means no reads.
	Weight int
	// Zone is where the node stands. Reads prefer replicas of Options.Zone.
	Zone string
	// Role is for dialects that cannot ask a server for its role (Plain without a Probe hook). Zero: the first node
	// is the primary. Dialects that can ask ignore it.
	Role Role
	// ConnInfo is how another server reaches this one to replicate from it: for PostgreSQL a primary_conninfo string
	// ("host=10.0.0.1 port=5432 user=replicator"), for MariaDB and MySQL "host:port:user:password". Needed only for
	// repointing after promotion.
	ConnInfo string
}

// Role is what a server said it is when it was last probed.
type Role uint8

const (
	RoleUnknown Role = iota
	RolePrimary      // accepts writes
	RoleReplica      // replays another server's writes
)

func (r Role) String() string {
	switch r {
	case RolePrimary:
		return "primary"
	case RoleReplica:
		return "replica"
	}
	return "unknown"
}

// Position is a point in the history of writes of one replicated database.
// Positions of different systems cannot be compared.
type Position struct {
	// System identifies the database whose history this is: PostgreSQL's system_identifier, MariaDB's domain or MySQL's
	// source uuid. Empty means unknown.
	System string `json:"s,omitempty"`
	// Timeline rises with each promotion: PostgreSQL's timeline, an epoch elsewhere.
	Timeline uint64 `json:"t,omitempty"`
	// Offset is the position on the timeline: an LSN, a sequence number.
	Offset uint64 `json:"o,omitempty"`
	// GTID is the set of executed transactions where one number cannot say it (MariaDB, MySQL).
	GTID string `json:"g,omitempty"`
}

// IsZero reports whether p says nothing.
func (p Position) IsZero() bool { return p.Timeline == 0 && p.Offset == 0 && p.GTID == "" }

// NodeState is what one probe of a server found out.
type NodeState struct {
	Role Role
	// Replayed is how far reads on this node have come: everything up to it is visible. On a primary: its flushed
	// position.
	Replayed Position
	// Received is how far the node's own copy of the log reaches; never behind Replayed. The most advanced candidate of
	// a promotion is the one that received most.
	Received Position
	// ReplayAge is the age of the last replayed transaction, or 0 when unknown. It counts as lag only while the node is
	// behind the primary: an idle primary makes it grow without any lag.
	ReplayAge time.Duration
	// Synchronous is set on a primary that acknowledges a commit only when a replica has it: what it acknowledged is
	// then on one of the standbys.
	Synchronous bool
	// ReadOnly is set on a primary that refuses writes by configuration.
	ReadOnly bool
}

// NodeStatus is a node as the cluster sees it now.
type NodeStatus struct {
	Name  string
	Zone  string
	Role  Role
	State string // "up", "down", "unknown"
	// Draining nodes get no new connections.
	Draining bool
	// Fenced says why the node is not used although it is up (a former primary on a lower timeline, a foreign system
	// id), or is empty.
	Fenced   string
	Position Position
	Received Position
	// LagBytes is how far the node's replay is behind the best known primary position; 0 for the primary.
	LagBytes int64
	// Lag is the same in time: 0 when the node is not behind.
	Lag       time.Duration
	InUse     int // physical connections borrowed
	Idle      int // physical connections in the free list
	LastProbe time.Time
	LastError string
}

// Status is the cluster as seen by this process.
type Status struct {
	Primary string // empty: no usable primary now
	Nodes   []NodeStatus
	// Epoch counts changes of the primary seen by this process.
	Epoch uint64
	// SplitBrain lists the nodes that accept writes on one timeline, when that is more than one. Writes are refused
	// then.
	SplitBrain []string
	// Degraded is how long at least one configured node has been missing; 0 with full redundancy.
	Degraded time.Duration
	// LastPromotion is the last promotion this process made.
	LastPromotion *PromotionReport
}
