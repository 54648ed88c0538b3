package shard

// Hooks are called synchronously and must be quick. Any may be nil.
type Hooks struct {
	// Refused is called when a fence or a stale map refused an attempt on a slot.
	Refused func(slot Slot, shard ID, attempt int)
	// MapChanged is called when a newer map was installed.
	MapChanged func(before, after *Map)
	// Phase is called when a job enters a phase.
	Phase func(p Progress)
}
