package journal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// recover reads the log and replays what is not settled.
func (j *Journal) recover(replay func(seq uint64, payload, note []byte) error) error {
	names, err := j.files.List()
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	var ids []uint64
	for _, name := range names {
		if id, ok := parseSegmentName(name); ok {
			ids = append(ids, id)
		} else if strings.HasPrefix(name, sparePrefix) {
			if err := j.files.Remove(name); err != nil {
				return fmt.Errorf("journal: %w", err)
			}
		}
	}
	slices.Sort(ids)
	payloads := map[uint64][]byte{}
	begun := false
	for _, id := range ids {
		s := &segment{id: id}
		if s.file, err = j.files.Open(s.name()); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		j.segments = append(j.segments, s)
		data, err := readAll(s.file)
		if err != nil {
			return fmt.Errorf("journal: read %s: %w", s.name(), err)
		}
		s.size, s.end = int64(len(data)), int64(len(data))
		var ok bool
		if s.epoch, ok = parseSegmentHeader(data); !ok {
			return fmt.Errorf("%w: %s: header", ErrCorrupt, s.name())
		}
		at := int64(segmentHeader)
		for {
			f, size, ok := parseFrame(data[min(at, int64(len(data))):], s.epoch)
			if !ok {
				break
			}
			if begun && f.number != j.number {
				return fmt.Errorf("%w: %s has frame %d, not %d", ErrCorrupt, s.name(), f.number, j.number)
			}
			if err := j.readFrame(s, at, f, payloads); err != nil {
				return err
			}
			begun = true
			j.number = f.number + 1
			j.nextSeq = max(j.nextSeq, f.next)
			at += size
		}
		// A cut-off write is followed by nothing that was ever acknowledged.
		if first, durable, found := laterFrames(data, at, s.epoch); found {
			hole := j.number
			if !begun {
				hole = first - 1
			}
			if durable > hole {
				return fmt.Errorf("%w: %s at byte %d, before frame %d", ErrCorrupt, s.name(), at, first)
			}
		}
		s.empty = at == segmentHeader
		// What was read may still be in memory only, if a process was killed: what follows says that it is durable.
		if err := s.file.Datasync(); err != nil {
			return fmt.Errorf("journal: fdatasync %s: %w", s.name(), err)
		}
	}
	j.durable = j.number
	for _, seq := range slices.Sorted(maps.Keys(j.entries)) {
		if err := replay(seq, payloads[seq], j.entries[seq].note); err != nil {
			return fmt.Errorf("journal: replay of entry %d: %w", seq, err)
		}
	}
	return nil
}

func readAll(f diskfile.File) ([]byte, error) {
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	data := make([]byte, n)
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data, nil
}

// readFrame takes in the records of a frame that begins at a byte of its segment.
func (j *Journal) readFrame(s *segment, at int64, f frame, payloads map[uint64][]byte) error {
	off := at + frameHeader
	for rest := f.records; len(rest) > 0; {
		k, seq, payload, size, ok := parseRecord(rest)
		if !ok {
			return fmt.Errorf("%w: %s: frame %d has a record that is none", ErrCorrupt, s.name(), f.number)
		}
		e := j.entries[seq]
		switch k {
		case kindEntry:
			if e == nil {
				e = &entry{}
				j.entries[seq] = e
			} else { // moved on
				e.segment.live--
				e.segment.liveBytes -= int64(e.length)
			}
			e.segment, e.off, e.length = s, off+recordHeader, len(payload)
			s.live++
			s.liveBytes += int64(e.length)
			payloads[seq] = payload
		case kindSettled:
			if e != nil {
				e.segment.live--
				e.segment.liveBytes -= int64(e.length)
				delete(j.entries, seq)
				delete(payloads, seq)
			}
		case kindNote:
			if e != nil {
				e.note = nil
				if len(payload) > 0 {
					e.note = slices.Clone(payload)
				}
			}
		}
		rest = rest[size:]
		off += int64(size)
	}
	return nil
}

// laterFrames looks for whole frames behind a place where there is none: the number of the first, and below which
// number they say that all was durable.
func laterFrames(data []byte, at int64, epoch uint64) (first, durable uint64, found bool) {
	for at += frameAlign; at+frameHeader <= int64(len(data)); at += frameAlign {
		if f, _, ok := parseFrame(data[at:], epoch); ok {
			if !found {
				first, found = f.number, true
			}
			durable = max(durable, f.durable)
		}
	}
	return first, durable, found
}

// reuse takes away the segments at the end that hold no frame, such as the one that was ready to go on with, and
// returns the name of one to be used again.
func (j *Journal) reuse() (spare string, err error) {
	for len(j.segments) > 0 && j.segments[len(j.segments)-1].empty {
		s := j.segments[len(j.segments)-1]
		j.segments = j.segments[:len(j.segments)-1]
		err := s.file.Close()
		if spare == "" && s.size == j.o.SegmentBytes {
			spare = fmt.Sprintf("%s%016x", sparePrefix, s.id)
			err = errors.Join(err, j.files.Rename(s.name(), spare))
		} else {
			err = errors.Join(err, j.files.Remove(s.name()))
		}
		if err != nil {
			return "", err
		}
	}
	return spare, nil
}
