package replica

import (
	"context"
	"time"

	"github.com/tierkit/tierkit/internal/hooks"
	"github.com/tierkit/tierkit/internal/keyring"
)

// Options configure a Cluster. The zero value of every field is a good default.
type Options struct {
	// Name of the cluster in freshness tokens: several clusters (shards) share one token. Default "db".
	Name string
	// Zone is where this process runs; reads prefer nodes of the same zone while one is healthy and fresh enough.
	Zone string

	// MaxConns caps the physical connections per node. 0: 64; negative: no cap. This is the only cap that counts:
	// logical connections of the *sql.DB are light, leave SetMaxOpenConns alone.
	MaxConns int
	// MaxIdle caps the idle physical connections per node. 0: 8; negative: none are kept.
	MaxIdle int
	// MaxIdleTime closes physical connections idle for longer. 0: 5 min; negative: never.
	MaxIdleTime time.Duration

	// ProbeInterval is the time between probes of each node. 0: 250 ms.
	ProbeInterval time.Duration
	// ProbeTimeout is when a probe counts as failed: the detection time of a frozen host. 0: ProbeInterval, at least
	// 100 ms.
	ProbeTimeout time.Duration
	// Fall is the number of failed probes that ejects a node. 0: 2. A refused connection ejects at once.
	Fall int
	// Rise is the number of good probes that returns it. 0: 1.
	Rise int

	// MaxLag: replicas further behind get no reads. 0: no limit. A context can be stricter, see the function MaxLag.
	MaxLag time.Duration
	// MaxLagBytes: the same in bytes of log. 0: no limit.
	MaxLagBytes int64
	// WaitBudget bounds how long a read waits on a replica for its session's position before it goes to the primary.
	// 0: 20 ms; negative: no waiting.
	WaitBudget time.Duration
	// SpillLimit caps the reads that run on the primary at one time because no replica could take them, so that the
	// loss of the replicas does not topple the primary too. 0: 32; negative: no cap. Over it reads wait, and fail with
	// ErrSpillLimit after SpillWait.
	SpillLimit int
	// SpillWait is how long a read waits for room under SpillLimit. 0: 1 s; negative: not at all.
	SpillWait time.Duration

	// PrimaryWait is how long a write waits for a primary when there is none, before ErrNoPrimary: nothing was sent, so
	// waiting is safe, and a failover ends sooner. 0: 5 s; negative: not at all.
	PrimaryWait time.Duration

	// ClassCache bounds the number of remembered query texts. 0: 4096.
	ClassCache int
	// ShadowFraction of the reads on replicas is repeated on the primary and compared, in the background; differences
	// are counted in Stats. 0: none.
	ShadowFraction float64

	// Promotion turns automatic promotion on. nil: observe only.
	Promotion *Promotion
	// Replace is called once, in its own goroutine, when a node has been dead for longer than ReplaceAfter, or was
	// promoted and so left its place among the replicas empty. The new server is handed over with Cluster.Add.
	Replace func(ctx context.Context, dead NodeStatus)
	// ReplaceAfter is how long a node must be dead. 0: 1 min.
	ReplaceAfter time.Duration

	// Hooks observe. nil costs nothing.
	Hooks *Hooks
}

// Promotion configures failover.
type Promotion struct {
	// Lease decides which process may promote. Required: without one two processes could promote two nodes.
	Lease Lease
	// LeaseTTL is how long the lease is held for one promotion. 0: 30 s.
	LeaseTTL time.Duration
	// After is how long the primary must be down. 0: at once when the health state says so.
	After time.Duration
	// MinStandbys is how many standbys must answer before one is chosen. 0: all configured standbys, so that the one
	// that holds the last acknowledged write is among them (with "ANY 1" it may be any one). Fewer answer and
	// MaxLossBytes is 0: refused.
	MinStandbys int
	// MaxLossBytes accepts a candidate that is up to this many bytes behind the last position seen of the primary, and
	// accepts missing standbys. 0: no loss is accepted that can be known of.
	MaxLossBytes int64
	// Before may veto with an error, after the candidate is known and replication is cut. Fence the old primary here if
	// you can.
	Before func(ctx context.Context, candidate NodeStatus, epoch uint64) error
	// Timeout bounds the whole promotion. 0: 30 s.
	Timeout time.Duration
}

// A Lease is a lock with a fencing number that at most one process holds.
type Lease interface {
	// Acquire takes the lease or returns an error. The epoch is higher than that of every earlier acquisition of key.
	Acquire(ctx context.Context, key string, ttl time.Duration) (epoch uint64, err error)
	// Release gives it back early; releasing what is not held is a no-op.
	Release(ctx context.Context, key string, epoch uint64) error
}

// PromotionReport says what a promotion did.
type PromotionReport struct {
	From, To string
	Epoch    uint64
	// LossBytes is the last position seen of the old primary minus the candidate's: an upper bound of what is lost, 0
	// when nothing is.
	LossBytes int64
	// Detected is from the first failed probe to the decision, Took from the decision to the first moment the new
	// primary accepted writes.
	Detected, Took time.Duration
	// Repointed lists the standbys that follow the new primary, Failed those that could not be told.
	Repointed []string
	Failed    map[string]string
	At        time.Time
}

// Hooks are called synchronously and must be quick. Any may be nil.
type Hooks struct {
	// Routed is called for each statement with the node it went to.
	Routed func(ctx context.Context, r Route)
	// NodeChanged is called when a node's state or role changes.
	NodeChanged func(before, after NodeStatus)
	// Promoted is called after a promotion, with err set when it was refused or failed.
	Promoted func(r PromotionReport, err error)
}

// Route is one routing decision.
type Route struct {
	Node   string
	Role   Role
	Class  Class
	Reason string // why not a replica, or "" on one
	Waited time.Duration
}

// JoinHooks calls both; either may be nil.
func JoinHooks(a, b *Hooks) *Hooks {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return &Hooks{
		Routed:      hooks.Join2(a.Routed, b.Routed),
		NodeChanged: hooks.Join2(a.NodeChanged, b.NodeChanged),
		Promoted:    hooks.Join2(a.Promoted, b.Promoted),
	}
}

// Key is an HMAC key of at least 32 bytes with its name.
type Key = keyring.Key
