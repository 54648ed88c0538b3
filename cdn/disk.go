package cdn

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// disk is the second tier: append-only segments, oldest dropped first, with an index in memory that is rebuilt from
// them at the start. An object is written once it was asked for twice: what is wanted once only is not worth a write.
// What can't be read back with the right checksums is a miss.
type disk struct {
	c    *Cache
	o    DiskOptions
	lock *os.File

	mu       sync.Mutex // guards what follows
	segments []*segment // oldest first; the last is written to
	index    map[string][]*diskRef
	keys     keyList // of index
	tags     map[string]map[*diskRef]struct{}
	bytes    int64
	count    int
	loading  map[*diskRef]*diskLoad
	closed   bool

	writes chan *object
	done   chan struct{}
}

// diskRef is where an object stands.
type diskRef struct {
	seg       *segment
	at        int64 // of the record
	size      int64
	key       string
	vary      []string
	selectors string
	tags      []string
	soft      bool
	mem       *object // loaded from it and not evicted since
}

type diskLoad struct {
	done chan struct{}
	o    *object
}

func openDisk(c *Cache, o DiskOptions) (*disk, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cdn: Options.Disk.Dir: %w", err)
	}
	lock, err := lockDir(filepath.Join(o.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("cdn: Options.Disk.Dir %s: in use by another cache: %w", o.Dir, err)
	}
	d := &disk{c: c, o: o, lock: lock, index: map[string][]*diskRef{}, tags: map[string]map[*diskRef]struct{}{},
		loading: map[*diskRef]*diskLoad{}, writes: make(chan *object, 256), done: make(chan struct{})}
	if err := d.recover(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("cdn: disk: %w", err)
	}
	go d.write()
	return d, nil
}

// segmentSize keeps about sixteen segments, so that dropping the oldest loses little at once.
func (d *disk) segmentSize() int64 { return min(max(d.o.MaxBytes/16, 1<<20), 64<<20) }

// recover reads the segments in order. A tail that was not written to its end is cut off.
func (d *disk) recover() error {
	names, err := filepath.Glob(filepath.Join(d.o.Dir, "segment-*"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		s, err := openSegment(name)
		if err != nil {
			return err
		}
		err = s.scan(func(r record, at int64) {
			switch r.kind {
			case recordObject:
				d.put(&diskRef{seg: s, at: at, size: r.total(), key: r.meta.Key, vary: r.meta.Vary,
					selectors: r.meta.Selectors, tags: r.meta.Tags})
			case recordPurge:
				d.purgeRefs(r.meta.Purge)
			}
		})
		if err != nil {
			return err
		}
		d.segments = append(d.segments, s)
	}
	d.fit()
	return nil
}

// fit drops the oldest segments until the budget holds, the files' full size counted.
func (d *disk) fit() {
	for {
		total := int64(0)
		for _, s := range d.segments {
			total += s.size
		}
		if total <= d.o.MaxBytes || len(d.segments) < 2 {
			return
		}
		old := d.segments[0]
		d.segments = d.segments[1:]
		d.abandon(old)
	}
}

// abandon forgets a segment. Its file goes when the last reader is through.
func (d *disk) abandon(s *segment) {
	for _, refs := range d.index {
		for _, r := range slices.Clone(refs) {
			if r.seg == s {
				d.drop(r)
			}
		}
	}
	s.remove()
}

// enqueue asks for an object to be written. When the writer is behind, the next hit asks again.
func (d *disk) enqueue(o *object) {
	o.wanted.Store(true)
	if n := o.next.Load(); n != nil {
		o = n
		o.wanted.Store(true)
	}
	if !o.held.Load() || !o.onDisk.CompareAndSwap(diskNo, diskQueued) {
		return
	}
	select {
	case d.writes <- o:
	default:
		o.onDisk.Store(diskNo)
	}
}

// write is the goroutine that appends.
func (d *disk) write() {
	defer close(d.done)
	for {
		select {
		case o := <-d.writes:
			d.append(o)
		case <-d.c.ctx.Done():
			for {
				select {
				case o := <-d.writes:
					d.append(o)
				default:
					return
				}
			}
		}
	}
}

func (d *disk) append(o *object) {
	rec, chunks, err := encodeObject(o)
	if err != nil || rec.total() > d.segmentSize() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || o.gone.Load() || o.soft.Load() { // purged meanwhile; a purge takes the same lock before it returns
		return
	}
	s, err := d.tail(rec.total())
	if err != nil {
		return // a full disk costs hits, nothing else
	}
	at, err := s.append(rec.head, chunks)
	if err != nil {
		return
	}
	o.onDisk.Store(diskWritten)
	d.put(&diskRef{seg: s, at: at, size: rec.total(), key: o.key, vary: o.vary, selectors: o.selectors, tags: o.tags,
		mem: o})
	d.fit()
}

// tail returns the segment to write n bytes to. d.mu is held.
func (d *disk) tail(n int64) (*segment, error) {
	if k := len(d.segments); k > 0 && d.segments[k-1].size+n <= d.segmentSize() {
		return d.segments[k-1], nil
	}
	number := uint64(time.Now().UnixNano())
	if k := len(d.segments); k > 0 {
		number = max(number, d.segments[k-1].number+1)
	}
	s, err := createSegment(d.o.Dir, number)
	if err == nil {
		d.segments = append(d.segments, s)
	}
	return s, err
}

// load brings the variant that a request selects back into memory; nil when there is none. Several who ask for one
// object wait for one read.
func (d *disk) load(key []byte, hash uint64, host *host, h http.Header) *object {
	d.mu.Lock()
	var ref *diskRef
	for _, r := range d.index[string(key)] {
		if selectorsOf(nil, r.vary, h) == r.selectors {
			ref = r
		}
	}
	if ref == nil || d.closed {
		d.mu.Unlock()
		return nil
	}
	if l := d.loading[ref]; l != nil {
		d.mu.Unlock()
		<-l.done
		return l.o
	}
	l := &diskLoad{done: make(chan struct{})}
	d.loading[ref] = l
	ref.seg.acquire()
	d.mu.Unlock()

	o, err := ref.seg.read(ref.at, ref.size, d.o.InPlace)
	e := d.c.index.lock(hash, string(key)) // an entry's lock comes before d.mu
	d.mu.Lock()
	delete(d.loading, ref)
	if slices.Contains(d.index[ref.key], ref) { // not purged meanwhile
		if err != nil {
			d.drop(ref) // damaged: a miss, now and later
		} else {
			o.hash, o.host = hash, host
			o.soft.Store(ref.soft)
			o.onDisk.Store(diskWritten)
			ref.mem, l.o = o, o
			d.c.store(e, o)
		}
	}
	d.mu.Unlock()
	d.c.index.unlock(e, hash, time.Now())
	ref.seg.release()
	if l.o != nil {
		d.c.count.diskHits.Add(1)
		d.c.keep(l.o, 0)
	}
	close(l.done)
	return l.o
}

// supersede forgets the record of a variant that was fetched anew.
func (d *disk) supersede(o *object) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.index[o.key] {
		if r.selectors == o.selectors && slices.Equal(r.vary, o.vary) {
			d.drop(r)
			return
		}
	}
}

// purge forgets what matches, durably: a record says so before the purge returns. The URL is a key. What was loaded
// into memory since the purge went through there is purged too.
func (d *disk) purge(m Match) (n int, err error) {
	n, loaded, err := d.purgeIndex(m)
	for _, o := range loaded {
		d.c.purgeObject(o, m.Soft)
	}
	return n, err
}

func (d *disk) purgeIndex(m Match) (n int, loaded []*object, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, nil, ErrClosed
	}
	refs := d.matching(m)
	if len(refs) == 0 {
		return 0, nil, nil
	}
	for _, r := range refs {
		if !isSlice(r.key) && (r.mem == nil || r.mem.gone.Load() && !r.mem.purged.Load()) { // else it counts in memory
			n++
		}
		if r.mem != nil {
			loaded = append(loaded, r.mem)
		}
		if m.Soft {
			r.soft = true
		} else {
			d.drop(r)
		}
	}
	if m.All && !m.Soft {
		for _, s := range d.segments {
			s.remove()
		}
		d.segments = nil
		return n, loaded, nil
	}
	rec, err := encodePurge(m)
	if err != nil {
		return n, loaded, err
	}
	s, err := d.tail(rec.total())
	if err != nil {
		return n, loaded, fmt.Errorf("cdn: disk: purge: %w", err)
	}
	if _, err := s.append(rec.head, nil); err != nil {
		return n, loaded, fmt.Errorf("cdn: disk: purge: %w", err)
	}
	if !d.o.NoSync {
		if err := s.f.Sync(); err != nil {
			return n, loaded, fmt.Errorf("cdn: disk: purge: %w", err)
		}
	}
	return n, loaded, nil
}

// dropKey is for invalidation by unsafe methods.
func (d *disk) dropKey(key string) {
	d.mu.Lock()
	some := len(d.index[key]) > 0
	d.mu.Unlock()
	if some {
		d.purge(Match{URL: key})
	}
}

func (d *disk) stats() (objects int, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count, d.bytes
}

func (d *disk) close() error {
	<-d.done
	d.mu.Lock()
	d.closed = true
	var errs []error
	for _, s := range d.segments {
		errs = append(errs, s.close())
	}
	d.mu.Unlock()
	errs = append(errs, d.lock.Close())
	return errors.Join(errs...)
}
