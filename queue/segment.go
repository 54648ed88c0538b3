package queue

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// segment is one file of the log.
type segment struct {
	id    uint32
	epoch uint64
	size  int64
	file  diskfile.File
	end   int64  // next frame; guarded by engine.mu
	base  uint64 // number of its first record (recovery and cleaning only)

	// guarded by engine.state
	live      int // messages in it that some group has not settled
	liveBytes int64
	pins      int // readers
}

func (s *segment) name() string { return segmentName(s.id, s.epoch) }

// segmentName carries the epoch a second time, so that a damaged header does not cost the segment.
func segmentName(id uint32, epoch uint64) string { return fmt.Sprintf("%08x-%016x.log", id, epoch) }

func parseSegmentName(name string) (id uint32, epoch uint64, ok bool) {
	base, ok := strings.CutSuffix(name, ".log")
	if !ok || len(base) != 25 {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(base, "%08x-%016x", &id, &epoch)
	return id, epoch, n == 2 && err == nil
}

const (
	prepPrefix = "prep-" // being filled with zeros: worthless after a crash
	freePrefix = "free-" // waiting to be recycled
	maxFree    = 2
)

// wantSegment asks for a segment to go on with; e.mu is held.
func (e *engine) wantSegment() {
	if e.next == nil {
		select {
		case e.want <- struct{}{}:
		default:
		}
	}
}

// prepares has a segment ready before it is needed: zero-filled, because writing into a file that has all its blocks
// makes fdatasync about twice as fast as growing it, or recycled, which costs nothing.
func (e *engine) prepares() {
	defer e.tasks.Done()
	var lastFailure time.Time
	for {
		select {
		case <-e.stop:
			return
		case <-e.want:
		}
		if wait := 20*time.Millisecond - time.Since(lastFailure); wait > 0 { // a full disk is not asked all the time
			t := time.NewTimer(wait)
			select {
			case <-e.stop:
				t.Stop()
				return
			case <-t.C:
			}
		}
		e.mu.Lock()
		if e.next != nil {
			e.mu.Unlock()
			continue
		}
		id := e.active.id + 1
		var old *segment
		if n := len(e.free); n > 0 {
			old = e.free[n-1]
			e.free = e.free[:n-1]
		}
		e.mu.Unlock()
		seg, err := e.prepare(id, old)
		if err != nil {
			lastFailure = time.Now()
		}
		e.mu.Lock()
		e.next, e.nextErr = seg, err
		e.mu.Unlock()
		e.room.Broadcast()
	}
}

// prepare makes the segment file id, from an old one or from nothing, and returns when it is durable under its name.
func (e *engine) prepare(id uint32, old *segment) (_ *segment, err error) {
	var random [8]byte
	rand.Read(random[:])
	seg := &segment{id: id, epoch: binary.LittleEndian.Uint64(random[:]), size: e.o.SegmentBytes, end: segmentHeader}
	name := fmt.Sprintf("%s%08x", prepPrefix, id)
	if old != nil && old.size == seg.size {
		name = freeName(old)
		seg.file = old.file
	} else {
		if old != nil {
			old.file.Close()
			_ = e.files.Remove(freeName(old))
		}
		_ = e.files.Remove(name) // left by a failed attempt
		if seg.file, err = e.files.Create(name); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			seg.file.Close()
			_ = e.files.Remove(name)
		}
	}()
	if old == nil || old.size != seg.size {
		zeros := make([]byte, min(1<<20, seg.size))
		for at := int64(0); at < seg.size; at += int64(len(zeros)) {
			if _, err = seg.file.WriteAt(zeros[:min(int64(len(zeros)), seg.size-at)], at); err != nil {
				return nil, err
			}
			select {
			case <-e.stop:
				return nil, ErrClosed
			default:
			}
		}
	}
	var h [segmentHeader]byte
	putSegmentHeader(h[:], uint64(id), seg.epoch, seg.size)
	if _, err = seg.file.WriteAt(h[:], 0); err != nil {
		return nil, err
	}
	if err = seg.file.Sync(); err != nil {
		return nil, err
	}
	if err = e.files.Rename(name, seg.name()); err != nil {
		return nil, err
	}
	name = seg.name()
	if err = e.files.SyncDir(); err != nil {
		return nil, err
	}
	return seg, nil
}

func freeName(s *segment) string { return fmt.Sprintf("%s%08x", freePrefix, s.id) }
