package queue

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// recovery rebuilds the index from the log. It reads every segment twice: first what happened to messages, then the
// messages themselves, so that only those still to be delivered ever take memory.
type recovery struct {
	e        *engine
	segments []*segment
	now      int64
	groups   map[uint32]*recovered
	copies   map[uint64]copyOf
	next     uint64 // number of the next record
	readOnly bool   // for Check
	torn     int64  // bytes that a crash cut off
}

// recover opens the directory's segments and fills the engine; it leaves one segment ready to be written to.
func (e *engine) recover() error {
	names, err := e.files.List()
	if err != nil {
		return err
	}
	r := &recovery{e: e, now: time.Now().UnixNano(), groups: map[uint32]*recovered{}, copies: map[uint64]copyOf{},
		next: 1}
	if err := r.open(names); err != nil {
		for _, s := range r.segments {
			s.file.Close()
		}
		return err
	}
	var last *segment
	if n := len(r.segments); n > 0 {
		last = r.segments[n-1]
	}
	e.nextSeq, e.durable = r.next, r.next
	if last != nil && last.end == segmentHeader {
		e.active = last // prepared, and not used
		r.segments = r.segments[:len(r.segments)-1]
	} else {
		id := uint32(1)
		if last != nil {
			id = last.id + 1
		}
		if e.active, err = e.prepare(id, nil); err != nil {
			return err
		}
	}
	e.sealed = r.segments
	for _, s := range r.segments {
		e.segments[s.id] = s
	}
	e.segments[e.active.id] = e.active
	if err := r.messages(); err != nil {
		return err
	}
	return e.begin()
}

// begin writes the snapshot of the groups into the first segment in use.
func (e *engine) begin() error {
	buf := append(make([]byte, frameHeader), e.groupsRecord(nil)...)
	sealRecords(buf[frameHeader:], e.active.epoch)
	frame{length: uint32(len(buf) - frameHeader), base: e.nextSeq, durable: e.durable}.put(buf, e.active.epoch)
	if _, err := e.active.file.WriteAt(buf, segmentHeader); err != nil {
		return err
	}
	e.active.base = e.nextSeq
	e.active.end = align(segmentHeader + int64(len(buf)))
	return e.active.file.Datasync()
}

func (r *recovery) open(names []string) error {
	e := r.e
	for _, name := range names {
		switch id, epoch, ok := parseSegmentName(name); {
		case strings.HasPrefix(name, prepPrefix), strings.HasPrefix(name, freePrefix):
			if err := e.files.Remove(name); err != nil {
				return err
			}
		case ok:
			f, err := e.files.Open(name)
			if err != nil {
				return err
			}
			seg := &segment{id: id, epoch: epoch, file: f, end: segmentHeader}
			r.segments = append(r.segments, seg)
			if seg.size, err = f.Size(); err != nil {
				return err
			}
			var h [segmentHeader]byte
			_, _ = f.ReadAt(h[:], 0)
			hid, hepoch, size, ok := parseSegmentHeader(h[:])
			if !ok || uint32(hid) != id || hepoch != epoch {
				e.corrupt(seg, damage{0, segmentHeader, 0}, "segment header is damaged")
				putSegmentHeader(h[:], uint64(id), epoch, seg.size)
				if _, err := f.WriteAt(h[:], 0); err != nil {
					return err
				}
			} else {
				seg.size = size
			}
		}
	}
	slices.SortFunc(r.segments, func(a, b *segment) int { return int(a.id) - int(b.id) })
	return r.scan()
}

// scan is the first reading.
func (r *recovery) scan() error {
	var held []entry
	var pending []damage // at the end of the newest segment with frames: torn, unless more follows
	var pendingIn *segment
	var end *scanner // of the newest segment with frames
	for i, seg := range r.segments {
		first := true
		s := &scanner{seg: seg, expected: r.next, visit: func(en entry) error { return r.apply(seg, en) }}
		seg.base = r.next // also when the header of its first frame is damaged
		s.held = held
		s.frameSeen = func(f frame) {
			if first && i > 0 && f.base > r.next {
				prev := r.segments[i-1]
				r.e.corrupt(prev, damage{prev.end, prev.size - prev.end, r.next}, "records are missing")
			}
			if first && i == 0 {
				seg.base = f.base
			}
			first = false
			for _, d := range pending {
				r.e.corrupt(pendingIn, d, "checksum does not match")
			}
			pending = nil
		}
		s.damaged = func(d damage, _ bool) { pending, pendingIn = append(pending, d), seg }
		if err := s.run(); err != nil {
			return fmt.Errorf("queue: read %s: %w", seg.name(), err)
		}
		held = s.held
		r.next = max(r.next, s.expected)
		if s.frames > 0 {
			end = s
		}
	}
	if end == nil {
		return nil
	}
	return r.mend(end, held, pending, pendingIn)
}

// mend ends the log behind its last intact record. What is pending there was cut off by a crash: it was never
// acknowledged and is not worth a report, but it must not come back either, now that producers may publish it again.
func (r *recovery) mend(s *scanner, held []entry, pending []damage, in *segment) error {
	seg := s.seg
	cut := seg.end
	if in == seg && len(pending) > 0 {
		cut = min(cut, pending[0].offset)
	}
	for _, en := range held {
		cut = min(cut, int64(en.offset))
	}
	if cut > s.framePos && cut < seg.end && s.visited < cut { // inside the last frame: make it shorter
		var h [frameHeader]byte
		s.frame.count -= min(s.frame.count, uint32(r.next-s.firstAt(cut, held, pending)))
		s.frame.length = uint32(cut - s.framePos - frameHeader)
		s.frame.put(h[:], seg.epoch)
		if _, err := seg.file.WriteAt(h[:], s.framePos); err != nil {
			return err
		}
		r.next = s.frame.base + uint64(s.frame.count)
	} else {
		for _, en := range held {
			if _, err := seg.file.WriteAt(make([]byte, en.length), int64(en.offset)); err != nil {
				return err
			}
		}
		cut = seg.end
	}
	r.torn += seg.end - cut
	if r.readOnly {
		return nil
	}
	zeros := make([]byte, min(maxBatch+frameHeader, seg.size-cut))
	if len(zeros) > 0 {
		if _, err := seg.file.WriteAt(zeros, cut); err != nil {
			return err
		}
	}
	seg.end = align(cut)
	return seg.file.Datasync()
}

// corrupt reports damage.
func (e *engine) corrupt(seg *segment, d damage, what string) {
	e.stats.quarantined.Add(1)
	if h := e.o.Hooks; h != nil && h.Corrupt != nil {
		h.Corrupt(seg.name(), d.offset, d.length, fmt.Errorf("%w: %s", ErrCorrupt, what))
	}
}
