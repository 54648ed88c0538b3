package stored

// Phase of a job. The values are stored and shown to users; package mover has the table of those that are stored and
// what follows each.
type Phase string

// The phases in their order. Those marked with a dot are stored; the others are parts of the one before, for people who
// watch.
const (
	Pinning Phase = "pin"     // . of a pin: the key's rows get a slot of their own, where they are
	Prepare Phase = "prepare" // . the target refuses clients and knows the mover
	Capture Phase = "capture" //   the source notes changed keys
	Copy    Phase = "copy"    // .
	CatchUp Phase = "catchup"
	Verify  Phase = "verify"
	Fence   Phase = "fence" // . the source refuses writes
	Drain   Phase = "drain"
	Commit  Phase = "commit" //   the map changes at its end: the point of no return
	Gone    Phase = "gone"   // . the source refuses reads of Tx too
	Owned   Phase = "owned"  //   the target accepts writes
	Hold    Phase = "hold"   // . of a reversible job, after the last hand-over: until Complete or Rollback
	Grace   Phase = "grace"  // . of the job, after the last hand-over: until no process acts on an old map any more
	Cleanup Phase = "cleanup"
	Done    Phase = "done"
)

// Move is one slot's way.
type Move struct {
	Slot Slot   `json:"s"`
	From string `json:"f"`
	To   string `json:"t"`
}

// Pin is a pin that is not in the map yet.
type Pin struct {
	Key  string   `json:"key"` // as in State.Pins
	By   []string `json:"by"`
	From string   `json:"from"`
	Old  Slot     `json:"old"`
	Slot Slot     `json:"slot"`
}

// Job is a move in progress. Every process that has the store can resume it.
type Job struct {
	ID    uint64 `json:"id"`
	Token uint64 `json:"token"` // of the mover that works on it
	Moves []Move `json:"moves"` // all, by source and target
	Done  int    `json:"done"`  // moves handed over
	Size  int    `json:"size"`  // moves of the current group
	// Announced is how many of the moves processes must expect at any time: those of the current group and the next.
	Announced int `json:"announced"`
	Cleaned   int `json:"cleaned"` // moves whose rows were deleted on the source
	// Reversible: the targets capture changed keys. Reverse: the job is the way back of one that was reversible; the
	// rows are there already.
	Reversible bool `json:"reversible,omitempty"`
	Reverse    bool `json:"reverse,omitempty"`
	// Phase of the current group, or from Hold on of the job. Repeating a phase from its start does no harm.
	Phase Phase `json:"phase"`
	Rows  int64 `json:"rows,omitempty"`
	// Pin is the key to which a pin job gives a slot.
	Pin *Pin `json:"pin,omitempty"`
}

// NextGroup begins the group behind the moves that are done, of at most max moves.
func (j *Job) NextGroup(max int) {
	j.Size = GroupSize(j.Moves[j.Done:], max)
	next := j.Done + j.Size
	j.Announced = next + GroupSize(j.Moves[next:], max)
}

// GroupSize is the number of moves at the head that share source and target, at most max.
func GroupSize(moves []Move, max int) int {
	n := 0
	for n < len(moves) && n < max && moves[n].From == moves[0].From && moves[n].To == moves[0].To {
		n++
	}
	return n
}

// TurnAround makes the job the way back of its first done moves, in groups of at most max.
func (j *Job) TurnAround(done, max int) {
	moves := make([]Move, done)
	for i, m := range j.Moves[:done] {
		moves[i] = Move{Slot: m.Slot, From: m.To, To: m.From}
	}
	j.Moves, j.Done, j.Cleaned, j.Reversible, j.Reverse = moves, 0, 0, false, true
	j.NextGroup(max)
	j.Phase = Fence
}
