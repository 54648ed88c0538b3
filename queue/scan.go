package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// entry is one intact record found by scan. Its payload is only valid during the call.
type entry struct {
	kind    kind
	seq     uint64
	offset  uint32
	length  uint32
	payload []byte
}

// damage is a range of a segment that does not parse, although it should.
type damage struct {
	offset, length int64
	base           uint64 // number of the first record that may have been there
}

// scanner reads a segment from front to back and takes every record that passes its checksum, whatever is broken around
// it.
type scanner struct {
	seg      *segment
	expected uint64 // number of the next record
	// visit gets the records. An error of it ends the scan.
	visit func(entry) error
	// frameSeen is called with every intact frame header, before its records.
	frameSeen func(f frame)
	// damaged is called with every broken range; torn says that nothing intact follows in this segment.
	damaged func(d damage, torn bool)

	window []byte
	from   int64
	held   []entry // intact records of an atomic batch that is not complete
	frames int

	// of the last intact frame
	framePos int64
	frame    frame
	visited  int64 // offset of the last visited record
}

const scanWindow = 1 << 20

var errShort = errors.New("segment file is shorter than its header says")

// at returns n bytes at pos; the slice is valid until the next call.
func (s *scanner) at(pos int64, n int) ([]byte, error) {
	if pos+int64(n) > s.seg.size {
		return nil, errShort
	}
	if pos >= s.from && pos+int64(n) <= s.from+int64(len(s.window)) {
		return s.window[pos-s.from:][:n], nil
	}
	want := min(max(int64(n), scanWindow), s.seg.size-pos)
	if int64(cap(s.window)) < want {
		s.window = make([]byte, want)
	}
	s.window = s.window[:want]
	s.from = pos
	k, err := s.seg.file.ReadAt(s.window, pos)
	if k < int(want) {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		clear(s.window[k:]) // a file cut short reads as zeros
	}
	return s.window[:n], nil
}

// run scans to the end, and leaves that in seg.end.
func (s *scanner) run() error {
	pos := int64(segmentHeader)
	for pos+frameHeader <= s.seg.size {
		h, err := s.at(pos, frameHeader)
		if err != nil {
			return err
		}
		f, ok := parseFrame(h, s.seg.epoch)
		if ok && pos+frameHeader+int64(f.length) <= s.seg.size {
			if s.frameSeen != nil {
				s.frameSeen(f)
			}
			s.frames++
			if err := s.release(); err != nil {
				return err
			}
			if f.count > 0 || f.base > s.expected {
				s.expected = f.base
			}
			s.framePos, s.frame = pos, f
			if err := s.records(pos, f); err != nil {
				return err
			}
			pos = align(pos + frameHeader + int64(f.length))
			continue
		}
		next, err := s.salvage(pos)
		if err != nil {
			return err
		}
		if next == 0 {
			if next, err = s.findFrame(pos + frameAlign); err != nil {
				return err
			}
			if next == 0 {
				break // the end, or a write that was cut off
			}
			s.damaged(damage{pos, next - pos, s.expected}, false)
		} else {
			s.damaged(damage{pos, frameHeader, s.expected}, false)
		}
		pos = next
	}
	s.seg.end = pos
	return nil
}

func (s *scanner) give(e entry) error {
	s.visited = int64(e.offset)
	return s.visit(e)
}

// release delivers the intact part of a broken atomic batch: something intact follows it, so it had been acknowledged.
func (s *scanner) release() error {
	for _, e := range s.held {
		if err := s.give(e); err != nil {
			return err
		}
	}
	s.held = nil
	return nil
}

// records visits the records of one frame. One that fails its checksum costs only itself when the record after it,
// found by its length, is intact.
func (s *scanner) records(pos int64, f frame) error {
	body, err := s.at(pos+frameHeader, int(f.length))
	if err != nil {
		return err
	}
	var chain []entry
	broken := false
	seq := f.base
	for off := 0; off < len(body); {
		k, more, payload, n, ok := parseRecord(body[off:], s.seg.epoch)
		if !ok {
			d := damage{pos + frameHeader + int64(off), int64(len(body) - off), seq}
			skip := 0
			if len(body)-off >= recordHeader {
				skip = recordHeader + int(binary.LittleEndian.Uint32(body[off:]))
			}
			if skip > 0 && off+skip < len(body) {
				if _, _, _, _, ok = parseRecord(body[off+skip:], s.seg.epoch); ok {
					d.length = int64(skip)
				}
			}
			s.damaged(d, false)
			broken = true
			if !ok {
				break
			}
			off += skip
			seq++
			continue
		}
		e := entry{k, seq, uint32(pos) + frameHeader + uint32(off), uint32(n), payload}
		if !more && len(chain) == 0 && !broken {
			if err := s.give(e); err != nil {
				return err
			}
		} else {
			chain = append(chain, e)
			if !more && !broken {
				for _, e := range chain {
					if err := s.give(e); err != nil {
						return err
					}
				}
				chain = chain[:0]
			}
		}
		off += n
		if f.count > 0 {
			seq++
		}
	}
	if len(chain) > 0 { // decided by what follows
		for i := range chain {
			chain[i].payload = bytes.Clone(chain[i].payload)
		}
		s.held = chain
	}
	s.expected = f.base + uint64(f.count)
	return nil
}

// salvage looks for records behind a broken frame header. It returns where they end, 0 when there are none.
func (s *scanner) salvage(pos int64) (int64, error) {
	start := pos + frameHeader
	off := start
	for off+recordHeader <= s.seg.size {
		h, err := s.at(off, recordHeader)
		if err != nil {
			return 0, err
		}
		n := int64(binary.LittleEndian.Uint32(h)) + recordHeader
		if off+n > s.seg.size || n > s.seg.size/2 {
			break
		}
		b, err := s.at(off, int(n))
		if err != nil {
			return 0, err
		}
		k, _, payload, _, ok := parseRecord(b, s.seg.epoch)
		if !ok {
			break
		}
		if err := s.give(entry{k, s.expected, uint32(off), uint32(n), payload}); err != nil {
			return 0, err
		}
		if k != kindGroups || off != segmentHeader+frameHeader { // the snapshot is not numbered
			s.expected++
		}
		off += n
	}
	if off == start {
		return 0, nil
	}
	s.frames++
	return align(off), nil
}

// findFrame returns where the next intact frame begins, 0 when there is none.
func (s *scanner) findFrame(pos int64) (int64, error) {
	var magic [4]byte
	binary.LittleEndian.PutUint32(magic[:], frameMagic)
	for pos+frameHeader <= s.seg.size {
		n := min(scanWindow, s.seg.size-pos)
		b, err := s.at(pos, int(n))
		if err != nil {
			return 0, err
		}
		for at := 0; ; {
			i := bytes.Index(b[at:], magic[:])
			if i < 0 || int64(at+i)+frameHeader > n {
				break
			}
			at += i
			if (pos+int64(at))%frameAlign == 0 {
				if f, ok := parseFrame(b[at:], s.seg.epoch); ok && f.base >= s.expected {
					return pos + int64(at), nil
				}
			}
			at++
		}
		if n < scanWindow {
			break
		}
		pos += n - frameHeader - frameAlign
		pos &^= frameAlign - 1
	}
	return 0, nil
}

// firstAt is the number of the record at offset cut, which is the first that is broken or held.
func (s *scanner) firstAt(cut int64, held []entry, pending []damage) uint64 {
	for _, e := range held {
		if int64(e.offset) == cut {
			return e.seq
		}
	}
	for _, d := range pending {
		if d.offset == cut {
			return d.base
		}
	}
	return s.expected
}
