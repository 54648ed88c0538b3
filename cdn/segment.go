package cdn

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A segment is a file of records, each
//
//	magic u32 | kind u8 | 0 u24 | metaLen u32 | bodyLen u64 |
//	sum of all this and the meta u64 | sum of the body u64 | meta (JSON) | body
//
// all little endian, the sums xxHash64. A record counts when its head sums up; a body when it does too.
type segment struct {
	f      *os.File
	path   string
	number uint64
	size   int64
	users  atomic.Int64 // readers, and one for the owner

	mu      sync.Mutex // guards what follows
	handles []*os.File // open for reading, each with an offset of its own
}

const (
	magic        = 0x746b6331 // "tkc1"
	headSize     = 36
	maxMeta      = 1 << 20
	recordObject = 1
	recordPurge  = 2
)

var errDamaged = errors.New("cdn: disk: damaged record")

// meta is an object without its body, or a purge.
type meta struct {
	Key       string        `json:"k,omitempty"`
	Status    int           `json:"s,omitempty"`
	Header    http.Header   `json:"h,omitempty"`
	Tags      []string      `json:"t,omitempty"`
	Vary      []string      `json:"v,omitempty"`
	Selectors string        `json:"x,omitempty"`
	Received  int64         `json:"r,omitempty"` // Unix nanoseconds
	Age       time.Duration `json:"a,omitempty"`
	Life      time.Duration `json:"l,omitempty"`
	SWR       time.Duration `json:"w,omitempty"`
	SIE       time.Duration `json:"e,omitempty"`
	NoCache   bool          `json:"n,omitempty"`
	Strict    bool          `json:"m,omitempty"`
	Slices    string        `json:"i,omitempty"`
	Length    int64         `json:"b,omitempty"` // of the whole, with Slices
	Purge     Match         `json:"p,omitzero"`
}

type record struct {
	kind    byte
	head    []byte // fixed part and meta, as written
	meta    meta
	bodyLen int64
	bodySum uint64
}

func (r *record) total() int64 { return int64(len(r.head)) + r.bodyLen }

func encodeRecord(kind byte, m meta, body [][]byte) (record, error) {
	r := record{kind: kind, meta: m}
	js, err := json.Marshal(m)
	if err != nil {
		return r, err
	}
	if len(js) > maxMeta {
		return r, errors.New("cdn: disk: header too large")
	}
	sum := xxhash.New()
	for _, c := range body {
		sum.Write(c)
		r.bodyLen += int64(len(c))
	}
	h := make([]byte, headSize, headSize+len(js))
	binary.LittleEndian.PutUint32(h, magic)
	h[4] = kind
	binary.LittleEndian.PutUint32(h[8:], uint32(len(js)))
	binary.LittleEndian.PutUint64(h[12:], uint64(r.bodyLen))
	binary.LittleEndian.PutUint64(h[28:], sum.Sum64())
	h = append(h, js...)
	binary.LittleEndian.PutUint64(h[20:], headSum(h))
	r.head = h
	return r, nil
}

// headSum covers the head with the place of the sum itself as 0.
func headSum(h []byte) uint64 {
	d := xxhash.New()
	d.Write(h[:20])
	d.Write(h[28:])
	return d.Sum64()
}

func encodeObject(o *object) (record, [][]byte, error) {
	m := meta{
		Key: o.key, Status: o.status, Header: o.header, Tags: o.tags, Vary: o.vary, Selectors: o.selectors,
		Received: o.received.UnixNano(), Age: o.age, Life: o.life, SWR: o.swr, SIE: o.sie, NoCache: o.noCache,
		Strict: o.strict,
	}
	if o.slices != "" {
		m.Slices, m.Length = o.slices, o.length
	}
	chunks := o.body.chunks
	if x := o.body.file; x != nil { // it was confirmed by a 304, and gets a record of its own
		f, done, err := x.open(time.Now())
		if err != nil {
			return record{}, nil, err
		}
		defer done()
		data := make([]byte, x.len)
		if _, err := f.ReadAt(data, x.at); err != nil {
			return record{}, nil, err
		}
		chunks = [][]byte{data}
	}
	r, err := encodeRecord(recordObject, m, chunks)
	return r, chunks, err
}

func encodePurge(m Match) (record, error) { return encodeRecord(recordPurge, meta{Purge: m}, nil) }

func createSegment(dir string, number uint64) (*segment, error) {
	path := filepath.Join(dir, fmt.Sprintf("segment-%020d", number))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{f: f, path: path, number: number}
	s.users.Store(1)
	return s, nil
}

func openSegment(path string) (*segment, error) {
	number, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(path), "segment-"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%s: not a segment", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	s := &segment{f: f, path: path, number: number}
	s.users.Store(1)
	return s, nil
}

// scan calls each for all records whose head is whole, and cuts off what follows the last one.
func (s *segment) scan(each func(r record, at int64)) error {
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	end := info.Size()
	for s.size < end {
		r, err := s.head(s.size, end)
		if errors.Is(err, errDamaged) {
			break
		}
		if err != nil {
			return err
		}
		each(r, s.size)
		s.size += r.total()
	}
	if s.size < end {
		return s.f.Truncate(s.size)
	}
	return nil
}

// head reads the fixed part and the meta of the record at an offset.
func (s *segment) head(at, end int64) (r record, err error) {
	var fixed [headSize]byte
	if at+headSize > end {
		return r, errDamaged
	}
	if _, err := s.f.ReadAt(fixed[:], at); err != nil {
		return r, err
	}
	metaLen := int64(binary.LittleEndian.Uint32(fixed[8:]))
	r.kind = fixed[4]
	r.bodyLen = int64(binary.LittleEndian.Uint64(fixed[12:]))
	r.bodySum = binary.LittleEndian.Uint64(fixed[28:])
	if binary.LittleEndian.Uint32(fixed[:]) != magic || metaLen > maxMeta || r.bodyLen < 0 ||
		r.bodyLen > end-at-headSize-metaLen {
		return r, errDamaged
	}
	r.head = make([]byte, headSize+metaLen)
	if _, err := s.f.ReadAt(r.head, at); err != nil {
		return r, err
	}
	if headSum(r.head) != binary.LittleEndian.Uint64(fixed[20:]) || json.Unmarshal(r.head[headSize:], &r.meta) != nil {
		return r, errDamaged
	}
	return r, nil
}

// read returns the object at an offset, checked to the last byte. A body of at least inPlace bytes stays where it is.
func (s *segment) read(at, size, inPlace int64) (*object, error) {
	r, err := s.head(at, at+size)
	if err != nil {
		return nil, err
	}
	if r.kind != recordObject || r.total() != size {
		return nil, errDamaged
	}
	var b *body
	if begin := at + int64(len(r.head)); r.bodyLen >= inPlace && r.bodyLen > 0 {
		b = &body{done: true, end: r.bodyLen, file: &extent{seg: s, at: begin, len: r.bodyLen, sum: r.bodySum}}
		b.complete.Store(true)
		if err := b.file.check(s.f, time.Now()); err != nil {
			return nil, err
		}
	} else {
		data := make([]byte, r.bodyLen)
		if _, err := io.ReadFull(io.NewSectionReader(s.f, begin, r.bodyLen), data); err != nil {
			return nil, err
		}
		if xxhash.Sum64(data) != r.bodySum {
			return nil, errDamaged
		}
		b = bodyOf(data)
	}
	m := &r.meta
	o := &object{key: m.Key, status: m.Status, header: m.Header, tags: m.Tags, vary: m.Vary, selectors: m.Selectors,
		body: b, length: r.bodyLen, slices: m.Slices,
		freshness: freshness{received: time.Unix(0, m.Received), age: m.Age, life: m.Life, swr: m.SWR, sie: m.SIE,
			noCache: m.NoCache, strict: m.Strict}}
	if o.header == nil {
		o.header = http.Header{}
	}
	if o.slices != "" {
		o.length = m.Length
	}
	o.etag = firstOf(o.header["Etag"])
	return o, nil
}

// append writes a record at the end. A failed write leaves the end where it was.
func (s *segment) append(head []byte, body [][]byte) (at int64, err error) {
	at = s.size
	off := at
	for _, p := range append([][]byte{head}, body...) {
		if _, err := s.f.WriteAt(p, off); err != nil {
			s.f.Truncate(at)
			return 0, err
		}
		off += int64(len(p))
	}
	s.size = off
	return at, nil
}

func (s *segment) acquire() { s.users.Add(1) }

func (s *segment) release() {
	if s.users.Add(-1) == 0 {
		s.f.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.handles {
			f.Close()
		}
		s.handles = nil
	}
}

// remove deletes the file once nobody reads it. Its name goes at once, so that a restart does not see it.
func (s *segment) remove() {
	os.Remove(s.path)
	s.release()
}

func (s *segment) close() error {
	s.release()
	return nil
}
