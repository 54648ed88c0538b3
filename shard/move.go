package shard

import (
	"context"
	"time"
)

// Change is what a Plan is made for. Exactly one field group is set.
type Change struct {
	// Weights of the shards that shall own slots after it; shards not named are emptied.
	Weights map[ID]float64
	// Slots are moved to To, whatever the weights say.
	Slots []Slot
	To    ID
}

// Plan is a list of moves, made from one map.
type Plan struct {
	Epoch uint64
	Moves []SlotMove
	// Rows is an estimate of the rows to copy.
	Rows int64
}

// SlotMove is one slot's way.
type SlotMove struct {
	Slot     Slot
	From, To ID
}

// Plan computes the minimal moves for a change. It changes nothing.
func (c *Cluster) Plan(ctx context.Context, ch Change) (Plan, error) { return Plan{}, ErrClosed }

// MoveOptions configure a job.
type MoveOptions struct {
	// Group is how many slots of one source and target are handed over together. 0: 1024.
	Group int
	// Chunk is the number of rows copied in one transaction. 0: 500.
	Chunk int
	// RowsPerSecond throttles the copy. 0: no throttle.
	RowsPerSecond int
	// LockTimeout bounds how long a fence may make writers wait before it gives way and tries again. 0: 200 ms.
	LockTimeout time.Duration
	// Grace is how long reverse capture keeps the way back open before the source's rows are deleted. 0: none.
	Grace time.Duration
	// Progress is called after every step.
	Progress func(Progress)
}

// Phase of a group of slots in a job. The order is the order of the constants.
type Phase string

const (
	PhasePrepare Phase = "prepare" // target refuses clients, knows the mover
	PhaseCapture Phase = "capture" // source notes changed keys
	PhaseCopy    Phase = "copy"
	PhaseCatchup Phase = "catchup"
	PhaseVerify  Phase = "verify"
	PhaseFence   Phase = "fence" // source refuses writes
	PhaseDrain   Phase = "drain"
	PhaseCommit  Phase = "commit" // map changed: the point of no return
	PhaseGone    Phase = "gone"   // source refuses reads of Tx too
	PhaseOwned   Phase = "owned"  // target accepts writes
	PhaseCleanup Phase = "cleanup"
	PhaseDone    Phase = "done"
)

// Progress of a job.
type Progress struct {
	Phase       Phase
	Group       int // from 1
	Groups      int
	SlotsMoved  int
	Slots       int
	RowsCopied  int64
	RowsTotal   int64 // estimate
	Elapsed     time.Duration
	ETA         time.Duration // 0 when unknown
	WritePauses []time.Duration
}

// Job is a move in progress.
type Job struct{}

// JobState is the stored form of a Job; every process that has the store can resume it.
type JobState struct {
	ID     uint64     `json:"id"`
	Token  uint64     `json:"token"` // of the mover that works on it
	Moves  []SlotMove `json:"moves"` // all
	Done   int        `json:"done"`  // moves handed over
	Size   int        `json:"size"`  // moves of the current group
	Phase  Phase      `json:"phase"`
	Cursor []byte     `json:"cursor,omitempty"`
}

// Move begins a job. It returns when the job is stored; the work goes on in the background. ErrMoving when there is one already.
func (c *Cluster) Move(ctx context.Context, p Plan, o MoveOptions) (*Job, error) {
	return nil, ErrClosed
}

// Resume takes over the stored job of a mover that died, with a higher token, or returns nil when there is none.
func (c *Cluster) Resume(ctx context.Context, o MoveOptions) (*Job, error) { return nil, ErrClosed }

// Wait until the job is done or failed. A failed job stays stored and can be resumed.
func (j *Job) Wait(ctx context.Context) error { return nil }

// Status of the job.
func (j *Job) Status() Progress { return Progress{} }

// Pause stops the job after its current step; Resume of the cluster goes on.
func (j *Job) Pause() error { return nil }

// Abort undoes the current group, which is possible until its commit, and ends the job. Groups already handed over stay.
func (j *Job) Abort(ctx context.Context) error { return nil }

// Pin gives a key a slot of its own on a shard and moves its rows there. The rows are those whose slot column has the
// key's slot and whose key matches; see Table.
func (c *Cluster) Pin(ctx context.Context, k Key, to ID, o MoveOptions) (*Job, error) {
	return nil, ErrClosed
}
