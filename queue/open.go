package queue

import (
	"fmt"
	"os"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// Options configure the embedded engine. The zero value is good.
type Options struct {
	// SegmentBytes is the size of one log file. Default 64 MiB, minimum 256 KiB, maximum 1 GiB. The largest message is
	// a quarter of it.
	SegmentBytes int64
	// DedupeWindow is how long a Message.ID is remembered. Default 5 min, negative: not at all.
	DedupeWindow time.Duration
	// DedupeMax bounds how many IDs are remembered; the oldest go first. Default 1,000,000.
	DedupeMax int
	// MaxBytes and MaxDepth bound the messages that are not yet settled. Default 0: no bound but the disk. What can
	// never fit is ErrTooLarge.
	MaxBytes int64
	MaxDepth int
	// Block makes Publish wait for room at a bound, until its context ends, instead of answering ErrFull.
	Block bool
	// UnsafeNoSync acknowledges without fdatasync: a crash of the machine (not of the process) loses what was
	// acknowledged in the last seconds. For measurements and for data that can be lost.
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

func (o Options) withDefaults() (Options, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64 << 20
	}
	if o.SegmentBytes < 256<<10 || o.SegmentBytes > 1<<30 {
		return o, fmt.Errorf("queue: Options.SegmentBytes is %d, must be 256 KiB to 1 GiB", o.SegmentBytes)
	}
	o.SegmentBytes = align(o.SegmentBytes)
	if o.DedupeWindow == 0 {
		o.DedupeWindow = 5 * time.Minute
	}
	if o.DedupeMax == 0 {
		o.DedupeMax = 1_000_000
	}
	if o.DedupeMax < 0 {
		return o, fmt.Errorf("queue: Options.DedupeMax is %d, must be positive", o.DedupeMax)
	}
	if o.MaxBytes < 0 {
		return o, fmt.Errorf("queue: Options.MaxBytes is negative")
	}
	if o.MaxDepth < 0 {
		return o, fmt.Errorf("queue: Options.MaxDepth is negative")
	}
	return o, nil
}

// Open opens or creates a queue in a directory, which must belong to it alone. Files are 0600. What a crash cut off is
// dropped; damage inside the log is reported to Hooks.Corrupt and counted, and everything else is served. Errors:
// ErrLocked when another process has it open; what the file system says.
func Open(dir string, o Options) (*Queue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	e, err := openEngine(dir, o, diskfile.Dir(dir))
	if err != nil {
		return nil, err
	}
	return New(e), nil
}

func openEngine(dir string, o Options, fs diskfile.FS) (*engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &engine{dir: dir, o: o, files: fs, start: time.Now(), cur: newBatch(),
		topics: map[string]*topicState{}, segments: map[uint32]*segment{}, moved: map[uint64]ref{},
		broken: make(chan struct{}), stop: make(chan struct{}), committed: make(chan struct{}),
		want: make(chan struct{}, 1), sweep: make(chan struct{}, 1)}
	e.seen.window, e.seen.max = max(0, int64(o.DedupeWindow)), o.DedupeMax
	e.filled.L, e.room.L = &e.mu, &e.mu
	e.topicMap.Store(&map[string]*topicState{})
	if e.lock, err = diskfile.Lock(dir, ErrLocked); err != nil {
		return nil, err
	}
	if err := e.recover(); err != nil {
		e.release()
		return nil, fmt.Errorf("queue: open %s: %w", dir, err)
	}
	e.tasks.Add(2)
	go e.commits()
	go e.prepares()
	go e.cleans()
	e.kickCleaner()
	return e, nil
}

// Close writes what is waiting and gives the directory back.
func (e *engine) Close() error {
	e.mu.Lock()
	e.closing = true
	e.filled.Signal()
	e.room.Broadcast()
	e.mu.Unlock()
	<-e.committed
	close(e.stop)
	e.tasks.Wait()
	var err error
	if e.failed == nil {
		err = e.active.file.Datasync() // settlements that nobody waited for
	}
	e.release()
	if err != nil {
		return fmt.Errorf("queue: close: %w", err)
	}
	return nil
}

// release closes every file.
func (e *engine) release() {
	for _, s := range e.segments {
		s.file.Close()
	}
	for _, s := range e.free {
		s.file.Close()
	}
	if e.next != nil {
		e.next.file.Close()
	}
	if e.active != nil {
		e.active.file.Close() // again, mostly
	}
	e.lock.Close()
}

// hashKey is 0 for no key only. Two keys of one hash are delivered one after the other, which does no harm.
func hashKey(key string) uint64 {
	if key == "" {
		return 0
	}
	return max(1, xxhash.Sum64String(key))
}
