package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// segment is one file of the log. They are removed or recycled oldest first, so that what settles an entry never goes
// before the entry.
type segment struct {
	id    uint64
	epoch uint64
	size  int64
	file  diskfile.File
	end   int64 // next frame; of the committing goroutine
	dirty bool  // holds frames that were not synced; likewise
	empty bool  // held no frame at the open

	live      int   // entries in it that are not settled; guarded by Journal.mu
	liveBytes int64 // likewise
	moving    bool  // compact reads it; likewise
}

func (s *segment) name() string { return fmt.Sprintf("%016x.journal", s.id) }

func parseSegmentName(name string) (id uint64, ok bool) {
	base, ok := strings.CutSuffix(name, ".journal")
	if !ok || len(base) != 16 {
		return 0, false
	}
	n, err := fmt.Sscanf(base, "%016x", &id)
	return id, n == 1 && err == nil
}

// sparePrefix marks files that hold nothing: being made, or left by a segment that was used up.
const sparePrefix = "spare-"

// keeps has the next segment ready before it is needed, and clears away those that are used up.
func (j *Journal) keeps() {
	defer j.tasks.Done()
	for {
		select {
		case <-j.stop:
			return
		case <-j.wake:
		}
		if err := j.clear(); err != nil {
			j.mu.Lock()
			j.fail(err)
			j.mu.Unlock()
			return
		}
		j.mu.Lock()
		want, id, spare := j.next == nil && j.wanted, j.active.id+1, j.spare
		wait := time.Until(j.asked.Add(minAsk))
		j.mu.Unlock()
		if !want {
			continue
		}
		if wait > 0 { // a full disk is not asked all the time
			t := time.NewTimer(wait)
			select {
			case <-j.stop:
				t.Stop()
				return
			case <-t.C:
			}
		}
		seg, err := j.prepare(id, spare)
		j.mu.Lock()
		j.asked = time.Now()
		j.next, j.nextErr = seg, err
		j.wanted = false
		j.spare = ""
		j.ready.Broadcast()
		j.mu.Unlock()
	}
}

const minAsk = 20 * time.Millisecond

// clear takes the oldest segments away while nothing in them is of use. One is kept as the next.
func (j *Journal) clear() error {
	for {
		j.mu.Lock()
		s := j.segments[0]
		if s.live > 0 || s.moving || s == j.active {
			j.mu.Unlock()
			return nil
		}
		j.segments = j.segments[1:]
		keep := j.spare == "" && j.next == nil && s.size == j.o.SegmentBytes
		j.mu.Unlock()
		spare := fmt.Sprintf("%s%016x", sparePrefix, s.id)
		err := s.file.Close()
		if keep {
			err = errors.Join(err, j.files.Rename(s.name(), spare))
		} else {
			err = errors.Join(err, j.files.Remove(s.name()))
		}
		// Durable before the next one goes: an old entry must not come back without what settled it.
		if err = errors.Join(err, j.files.SyncDir()); err != nil {
			return fmt.Errorf("clear %s: %w", s.name(), err)
		}
		if keep {
			j.mu.Lock()
			j.spare = spare
			j.mu.Unlock()
			j.knock()
		}
	}
}

// prepare makes the segment file id, of a spare one or of nothing, and returns when it is durable under its name. It is
// filled with zeros, because writing into a file that has all its blocks makes fdatasync about twice as fast as growing
// it, and because the disk cannot be full halfway through a frame.
func (j *Journal) prepare(id uint64, spare string) (_ *segment, err error) {
	var random [8]byte
	rand.Read(random[:])
	s := &segment{id: id, epoch: binary.LittleEndian.Uint64(random[:]), size: j.o.SegmentBytes, end: segmentHeader}
	name := spare
	if name != "" {
		s.file, err = j.files.Open(name)
	} else {
		name = fmt.Sprintf("%s%016x", sparePrefix, id)
		_ = j.files.Remove(name) // left by an attempt that failed
		s.file, err = j.files.Create(name)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.file.Close()
			_ = j.files.Remove(name)
		}
	}()
	if spare == "" {
		zeros := make([]byte, min(1<<20, s.size))
		for at := int64(0); at < s.size; at += int64(len(zeros)) {
			if _, err = s.file.WriteAt(zeros[:min(int64(len(zeros)), s.size-at)], at); err != nil {
				return nil, err
			}
		}
	}
	var h [segmentHeader]byte
	putSegmentHeader(h[:], s.epoch)
	if _, err = s.file.WriteAt(h[:], 0); err != nil {
		return nil, err
	}
	if err = s.file.Sync(); err != nil {
		return nil, err
	}
	if err = j.files.Rename(name, s.name()); err != nil {
		return nil, err
	}
	name = s.name()
	if err = j.files.SyncDir(); err != nil {
		return nil, err
	}
	return s, nil
}
