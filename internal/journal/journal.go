// Package journal is a log of entries that are of use until they are settled: what was appended before kill -9 or a
// loss of power and not settled is there at the next open. Appends of many goroutines share one fdatasync (group
// commit); space is used again once everything in the oldest segment is settled, and what is not is moved on, so that
// one old entry does not keep the rest.
//
// It differs from the log of package queue in what it is asked: not which message goes to whom, with leases and groups,
// but which writes are still to be done.
package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// Errors that a caller can act on; wrapped with their cause.
var (
	// ErrLocked: another process has the directory open.
	ErrLocked = errors.New("journal: directory is in use")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("journal: closed")
	// ErrFailed: a write or sync failed. Nobody knows what the disk holds, so the journal takes no more until it is
	// opened again.
	ErrFailed = errors.New("journal: the disk has failed")
	// ErrNoRoom: there is no room for the entry now, with the cause, such as ENOSPC. Nothing was stored. There is again
	// when entries were settled or the disk has room.
	ErrNoRoom = errors.New("journal: no room")
	// ErrTooLarge: an entry is larger than a quarter of a segment.
	ErrTooLarge = errors.New("journal: entry is too large")
	// ErrCorrupt: what was once durable is damaged.
	ErrCorrupt = errors.New("journal: damaged")
)

// Options configure a [Journal]. The zero value is good.
type Options struct {
	// SegmentBytes is the size of a file. Default 8 MiB, at least 64 KiB. Two of them are always there; an entry may
	// have a quarter.
	SegmentBytes int64
}

// Journal is safe for concurrent use.
type Journal struct {
	o         Options
	files     diskfile.FS
	lock      *os.File
	wake      chan struct{} // for keeps
	stop      chan struct{}
	committed chan struct{} // closed when the committing goroutine has ended
	tasks     sync.WaitGroup

	// Of the committing goroutine.
	active  *segment // changed under mu as well
	number  uint64   // of the next frame
	durable uint64   // frames below it are on disk

	mu       sync.Mutex // guards what follows
	filled   sync.Cond  // there is something to commit, or closing
	ready    sync.Cond  // keeps has tried to make a segment
	cur      *batch
	entries  map[uint64]*entry
	segments []*segment // oldest first
	next     *segment   // to go on with
	nextErr  error
	wanted   bool
	asked    time.Time
	spare    string // name of a file to be used again
	nextSeq  uint64
	quiet    bool // settlements are to be written without waiting for an entry
	closing  bool
	failed   error

	syncs, bytes, moved atomic.Int64
}

// entry is one that is not settled.
type entry struct {
	segment *segment // nil: not on disk yet
	off     int64
	length  int // of the payload
	note    []byte
}

// Open takes the directory, which it makes if need be, and calls replay with every entry that is not settled, in the
// order of their appending.
func Open(dir string, o Options, replay func(seq uint64, payload, note []byte) error) (*Journal, error) {
	if dir == "" {
		return nil, errors.New("journal: directory is empty")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	// A directory that was made just now must not go with the power either.
	if err := diskfile.Dir(filepath.Dir(filepath.Clean(dir))).SyncDir(); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return open(dir, o, diskfile.Dir(dir), replay)
}

func open(dir string, o Options, fs diskfile.FS, replay func(seq uint64, payload, note []byte) error) (_ *Journal,
	err error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 8 << 20
	}
	if o.SegmentBytes < 64<<10 || o.SegmentBytes > 1<<30 {
		return nil, fmt.Errorf("journal: Options.SegmentBytes is %d, must be 64 KiB to 1 GiB", o.SegmentBytes)
	}
	lock, err := diskfile.Lock(dir, ErrLocked)
	if err != nil {
		return nil, err
	}
	j := &Journal{o: o, files: fs, lock: lock, wake: make(chan struct{}, 1), stop: make(chan struct{}),
		committed: make(chan struct{}),
		cur:       newBatch(), entries: map[uint64]*entry{}, nextSeq: 1}
	j.filled.L, j.ready.L = &j.mu, &j.mu
	defer func() {
		if err != nil {
			j.closeFiles()
		}
	}()
	if err := j.recover(replay); err != nil {
		return nil, err
	}
	spare, err := j.reuse()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	id := uint64(1)
	if n := len(j.segments); n > 0 {
		id = j.segments[n-1].id + 1
	}
	s, err := j.prepare(id, spare)
	if err != nil {
		return nil, fmt.Errorf("journal: make a segment: %w", err)
	}
	j.active = s
	j.segments = append(j.segments, s)
	j.tasks.Add(1)
	go j.keeps()
	go j.commits()
	j.knock()
	return j, nil
}

// Append stores an entry and returns when it is durable. applied, if not nil, is then called with its number first; the
// calls come one at a time and in the order of the entries. Errors: [ErrNoRoom] and [ErrTooLarge], nothing was stored;
// [ErrFailed]; [ErrClosed]; that of ctx when it ends before the outcome is known.
func (j *Journal) Append(ctx context.Context, payload []byte, applied func(seq uint64)) error {
	if int64(len(payload))+recordHeader+frameHeader > j.o.SegmentBytes/4 {
		return fmt.Errorf("%w: %d bytes, of %d", ErrTooLarge, len(payload), j.o.SegmentBytes/4-recordHeader-frameHeader)
	}
	done := make(chan error, 1)
	j.mu.Lock()
	for len(j.cur.buf) > j.room() && !j.closing && j.failed == nil && ctx.Err() == nil {
		j.ready.Wait()
	}
	switch {
	case j.failed != nil:
		j.mu.Unlock()
		return j.failed
	case j.closing:
		j.mu.Unlock()
		return ErrClosed
	case ctx.Err() != nil:
		j.mu.Unlock()
		return ctx.Err()
	}
	seq := j.nextSeq
	j.nextSeq++
	b := j.cur
	b.arrived = append(b.arrived, arrival{seq, len(b.buf), applied, done})
	b.buf = appendRecord(b.buf, kindEntry, seq, payload)
	b.people++
	j.filled.Signal()
	j.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("journal: outcome unknown: %w", ctx.Err())
	}
}

// Settle says that an entry is of no more use. That reaches the disk with the next entries, so that an entry settled
// just before a crash may be replayed.
func (j *Journal) Settle(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.entries[seq]
	if e == nil {
		return
	}
	delete(j.entries, seq)
	e.segment.live--
	e.segment.liveBytes -= int64(e.length)
	j.cur.marks = appendRecord(j.cur.marks, kindSettled, seq, nil)
	switch {
	case len(j.entries) == 0 || len(j.cur.marks) > j.room(): // when all is done, the disk may as well know
		j.quiet = true
		j.filled.Signal()
	case e.segment.live == 0 && e.segment == j.segments[0] && e.segment != j.active:
		j.knock()
	}
}

// Note keeps a few words with an entry, nil for none, of at most 1000 bytes. They reach the disk as settlements do.
func (j *Journal) Note(seq uint64, note []byte) {
	note = slices.Clone(note[:min(len(note), 1000)])
	j.mu.Lock()
	defer j.mu.Unlock()
	if e := j.entries[seq]; e != nil {
		e.note = note
		j.cur.marks = appendRecord(j.cur.marks, kindNote, seq, note)
		j.quiet = true
		j.filled.Signal()
	}
}

// knock wakes keeps.
func (j *Journal) knock() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// fail stops the journal for good; mu is held. A second fsync would report success for pages that the kernel has
// dropped.
func (j *Journal) fail(cause error) {
	if j.failed == nil {
		j.failed = fmt.Errorf("%w: %w", ErrFailed, cause)
	}
	j.ready.Broadcast()
	j.filled.Broadcast()
}

// Stats are the counters of a [Journal].
type Stats struct {
	Entries  int64 // not settled
	Bytes    int64 // of files
	Written  int64 // bytes
	Syncs    int64
	Moved    int64 // entries
	Segments int64
}

// Stats is safe at any time.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := Stats{Entries: int64(len(j.entries)), Segments: int64(len(j.segments)), Written: j.bytes.Load(),
		Syncs: j.syncs.Load(), Moved: j.moved.Load()}
	for _, s := range j.segments {
		st.Bytes += s.size
	}
	if j.next != nil {
		st.Bytes += j.next.size
	}
	if j.spare != "" {
		st.Bytes += j.o.SegmentBytes
	}
	return st
}

// Close writes what is settled and gives the directory back. Idempotent.
func (j *Journal) Close() error {
	j.mu.Lock()
	first := !j.closing
	j.closing = true
	j.filled.Broadcast()
	j.ready.Broadcast()
	j.mu.Unlock()
	<-j.committed
	if !first {
		j.tasks.Wait()
		return nil
	}
	close(j.stop)
	j.tasks.Wait()
	var err error
	if j.failed == nil && j.active.dirty {
		err = j.sync(j.active)
	}
	return errors.Join(err, j.closeFiles())
}

func (j *Journal) closeFiles() error {
	var err error
	for _, s := range j.segments {
		err = errors.Join(err, s.file.Close())
	}
	if j.next != nil {
		err = errors.Join(err, j.next.file.Close())
	}
	return errors.Join(err, j.lock.Close())
}
