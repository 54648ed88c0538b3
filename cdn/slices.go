package cdn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// An object that is too large to be kept as a whole is kept as a head without a body and, each under a key of its own,
// the slices that clients wanted. A slice belongs to one fetch of the head: its key holds a number that the head was
// given then, and every slice must come with the head's strong entity tag (RFC 9110 section 14.2 and 15.3.7.3), so that
// bytes of two versions never meet in one answer.

// errChanged means that the origin's object is no longer the one that the head describes.
var errChanged = errors.New("cdn: the origin's object has changed")

// sliceable is whether an answer that is too large may be kept in slices.
func (c *Cache) sliceable(o *object, res *http.Response) bool {
	return c.o.SliceBytes > 0 && o.status == http.StatusOK && o.length > c.o.MaxObject && strongTag(o.etag) &&
		!strings.EqualFold(res.Header.Get("Accept-Ranges"), "none") &&
		res.Header.Get("Accept-Ranges") != ""
}

func (o *object) sliceKey(i int64) string { return o.key + "\x00" + o.slices + "/" + itoa(i) }

// sliceFetches are the fetches of slices that run, so that one slice is fetched once.
type sliceFetches struct {
	mu sync.Mutex // guards m
	m  map[string]*sliceFetch
}

type sliceFetch struct {
	done chan struct{}
	o    *object
	err  error
}

// slice returns a slice of a head, from memory, disk or the origin.
func (s *service) slice(head *object, i int64) (*object, error) {
	f := s.startSlice(head, i)
	select {
	case <-f.done:
		return f.o, f.err
	case <-s.r.Context().Done():
		return nil, s.r.Context().Err()
	}
}

// startSlice begins to fetch a slice, or joins who does. It does not wait.
func (s *service) startSlice(head *object, i int64) *sliceFetch {
	c := s.e.c
	key := head.sliceKey(i)
	hash := c.hashString(key)
	found := func() *object {
		if e := c.index.find(hash, []byte(key)); e != nil {
			for _, o := range e.all() {
				if !o.gone.Load() && c.readable(o) {
					o.state.Visit()
					if c.disk != nil && o.onDisk.Load() == diskNo {
						c.disk.enqueue(o)
					}
					return o
				}
			}
		}
		return nil
	}
	ready := func(o *object) *sliceFetch {
		f := &sliceFetch{done: make(chan struct{}), o: o}
		close(f.done)
		return f
	}
	if o := found(); o != nil {
		return ready(o)
	}
	c.slices.mu.Lock()
	if f := c.slices.m[key]; f != nil {
		c.slices.mu.Unlock()
		return f
	}
	if !c.begin() {
		c.slices.mu.Unlock()
		f := ready(nil)
		f.err = ErrClosed
		return f
	}
	f := &sliceFetch{done: make(chan struct{})}
	if c.slices.m == nil {
		c.slices.m = map[string]*sliceFetch{}
	}
	c.slices.m[key] = f
	c.slices.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.r.Context()), c.o.FillTimeout)
	stop := context.AfterFunc(c.ctx, cancel)
	req := s.e.fillRequest(ctx, s.r, nil)
	edge := s.e
	go func() {
		defer c.work.Done()
		defer cancel()
		defer stop()
		if f.o = found(); f.o == nil && c.disk != nil {
			f.o = c.disk.load([]byte(key), hash, head.host, nil)
		}
		if f.o == nil {
			f.o, f.err = edge.fetchSlice(req, head, i, key, hash)
		}
		c.slices.mu.Lock()
		delete(c.slices.m, key)
		c.slices.mu.Unlock()
		close(f.done)
	}()
	return f
}

// fetchSlice asks the origin for a slice and stores it, unless its head is gone by then.
func (x *edge) fetchSlice(req *http.Request, head *object, i int64, key string, hash uint64) (*object, error) {
	c := x.c
	from := i * c.o.SliceBytes
	to := min(from+c.o.SliceBytes, head.length) - 1
	req.Header["Range"] = []string{fmt.Sprintf("bytes=%d-%d", from, to)}
	release, err := x.turn(req.Context())
	if err != nil {
		return nil, err
	}
	asked := time.Now()
	c.count.fills.Add(1)
	c.count.inFlight.Add(1)
	defer c.count.inFlight.Add(-1)
	res, err := x.transport.RoundTrip(req)
	release()
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode >= 500 {
		return nil, fmt.Errorf("cdn: the origin answers a range with status %d", res.StatusCode)
	}
	if res.StatusCode != http.StatusPartialContent || res.Header.Get("Etag") != head.etag ||
		res.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", from, to, head.length) ||
		res.Header.Get("Content-Encoding") != strings.Join(head.header["Content-Encoding"], ", ") {
		return nil, errChanged
	}
	data := make([]byte, to-from+1)
	_, err = io.ReadFull(io.TeeReader(res.Body, byteCounter{&c.count.in, &head.host.in}), data)
	if h := c.o.Hooks; h != nil && h.Filled != nil {
		h.Filled(head.key, res.StatusCode, int64(len(data)), time.Since(asked), err == nil)
	}
	if err != nil {
		return nil, errTruncated
	}
	o := &object{key: key, hash: hash, host: head.host, status: http.StatusPartialContent, header: http.Header{},
		body: bodyOf(data), length: int64(len(data)),
		tags: head.tags, freshness: head.freshness}
	e := c.index.lock(hash, key)
	if head.gone.Load() && head.next.Load() == nil {
		o.gone.Store(true) // purged meanwhile: it serves who asked before, and nobody else
	} else {
		c.store(e, o)
	}
	c.index.unlock(e, hash, time.Now())
	if !o.gone.Load() {
		c.keep(o, 0)
		if head.gone.Load() && head.next.Load() == nil { // purged between the two
			c.remove(o)
		}
	}
	return o, nil
}

// sendSlices writes a part of an object that is kept in slices; first is the slice that it begins in, fetched already.
// The next slice is fetched while one is being written.
func (s *service) sendSlices(head, first *object, from, to int64) (abort bool) {
	size := s.e.c.o.SliceBytes
	part := first
	for at := from; at < to; {
		i := at / size
		if part == nil {
			var err error
			if part, err = s.slice(head, i); err != nil {
				if errors.Is(err, errChanged) {
					s.e.c.remove(head)
				}
				return true
			}
		}
		if (i+1)*size < to {
			s.startSlice(head, i+1)
		}
		begin, end := at-i*size, min(to-i*size, part.length)
		n, ok, abort := s.sendPart(part.body, begin, end)
		at += n
		if !ok {
			return abort
		}
		part = nil
	}
	return false
}

// sendPart writes a part of a complete body; ok is false when the client is gone, or with abort when the body could not
// be read.
func (s *service) sendPart(b *body, from, to int64) (n int64, ok, abort bool) {
	if x := b.file; x != nil {
		f := s.file
		if s.extent != x {
			var done func()
			var err error
			if f, done, err = x.open(s.now); err != nil {
				return 0, false, true
			}
			defer done()
		}
		n, broken := sendFile(s.w, f, x.at+from, to-from)
		s.bytes += n
		return n, n == to-from, broken
	}
	for n < to-from {
		p := b.part(from + n)
		if int64(len(p)) > to-from-n {
			p = p[:to-from-n]
		}
		k, err := s.w.Write(p)
		n += int64(k)
		s.bytes += int64(k)
		if err != nil {
			return n, false, false
		}
	}
	return n, true, false
}
