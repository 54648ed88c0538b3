package journal

import (
	"errors"
	"fmt"
)

// compact moves what is still of use out of the oldest segment, when the log is more than twice as long as what it
// holds; then keeps clears the segment away. It runs between commits, of which it delays one, and reads at most one
// segment.
func (j *Journal) compact() {
	j.mu.Lock()
	var live int64
	for _, s := range j.segments {
		live += s.liveBytes + int64(s.live)*recordHeader
	}
	oldest := j.segments[0]
	// Where there is not enough room, what arrives goes first.
	room := j.next != nil || j.active.size-j.active.end > oldest.liveBytes+int64(oldest.live+8)*64
	if oldest == j.active || oldest.live == 0 || !room || int64(len(j.segments)) <= 3+
		2*((live+j.o.SegmentBytes-1)/j.o.SegmentBytes) {
		j.mu.Unlock()
		return
	}
	oldest.moving = true
	type move struct {
		seq uint64
		e   entry
	}
	var moves []move
	for seq, e := range j.entries {
		if e.segment == oldest {
			moves = append(moves, move{seq, *e})
		}
	}
	next := j.nextSeq
	j.mu.Unlock()

	buf := make([]byte, frameHeader)
	first := 0
	flush := func(end int) error {
		if err := j.write(buf, next, true); err != nil {
			return err
		}
		at := j.active.end - align(int64(len(buf))) + frameHeader
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, m := range moves[first:end] {
			if e := j.entries[m.seq]; e != nil {
				oldest.live--
				oldest.liveBytes -= int64(e.length)
				e.segment, e.off = j.active, at+recordHeader
				j.active.live++
				j.active.liveBytes += int64(e.length)
			} // else it was settled meanwhile, and its mark comes with a later frame than this one
			at += recordHeader + int64(m.e.length)
			if len(m.e.note) > 0 {
				at += recordHeader + int64(len(m.e.note))
			}
			j.moved.Add(1)
		}
		first = end
		buf = buf[:frameHeader]
		return nil
	}
	err := error(nil)
	for i, m := range moves {
		payload := make([]byte, m.e.length)
		if _, err = oldest.file.ReadAt(payload, m.e.off); err != nil {
			err = fmt.Errorf("read %s: %w", oldest.name(), err)
			break
		}
		buf = appendRecord(buf, kindEntry, m.seq, payload)
		if len(m.e.note) > 0 {
			buf = appendRecord(buf, kindNote, m.seq, m.e.note)
		}
		if len(buf) > j.room() || i == len(moves)-1 {
			if err = flush(i + 1); err != nil {
				break
			}
		}
	}
	j.mu.Lock()
	oldest.moving = false
	if err != nil && !errors.Is(err, ErrNoRoom) {
		j.fail(err)
	}
	j.mu.Unlock()
	j.knock()
}
