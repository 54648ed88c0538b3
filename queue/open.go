package queue

import "time"

// Options configure the embedded engine. The zero value is good.
type Options struct {
	// SegmentBytes is the size of one log file. Default 64 MiB, minimum 64 KiB. The largest message is a quarter of it.
	SegmentBytes int64
	// DedupeWindow is how long a Message.ID is remembered. Default 5 min, negative: not at all.
	DedupeWindow time.Duration
	// DedupeMax bounds how many IDs are remembered; the oldest go first. Default 1,000,000.
	DedupeMax int
	// MaxBytes and MaxDepth bound the messages that are not yet settled. Default 0: no bound but the disk.
	MaxBytes int64
	MaxDepth int
	// Block makes Publish wait for room at a bound, until its context ends, instead of answering ErrFull.
	Block bool
	// UnsafeNoSync acknowledges without fdatasync: a crash of the machine (not of the process) loses what was acknowledged in the last
	// seconds. For measurements and for data that can be lost.
	UnsafeNoSync bool
	// Hooks observe the engine.
	Hooks *Hooks
}

// Hooks are called by the engine; nil fields cost nothing. They must not call back into the queue.
type Hooks struct {
	// Corrupt is told of every damaged place: the file, the range of bytes, and what was wrong.
	Corrupt func(file string, offset, length int64, err error)
	// Committed is told of every group commit: records, bytes, time of write and fdatasync.
	Committed func(records, bytes int, took time.Duration)
}

// Open opens or creates a queue in a directory, which must belong to it alone. Files are 0600.
// Errors: ErrLocked when another process has it open; what the file system says.
func Open(dir string, o Options) (*Queue, error) { return nil, nil }
