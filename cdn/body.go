package cdn

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// body is a response's content, written by one filler and read by any number of clients while it grows.
//
// What a reader has seen never changes: the filler writes only behind it. Once complete it is read without a lock.
type body struct {
	complete atomic.Bool // nothing below changes any more
	file     *extent     // where a complete body stands when it is not in memory

	mu     sync.Mutex // guards what follows
	chunks [][]byte
	base   int64 // offset of chunks[0]; above 0 only when the body outgrew what may be kept
	end    int64
	done   bool
	err    error
	wake   chan struct{} // closed and replaced when something changes; nil: nobody waits

	// A body that outgrew MaxObject is passed on through a window: read parts are let go, and the filler waits for the
	// slowest reader.
	window  bool
	readers map[*bodyReader]struct{}
}

const (
	smallest   = 4 << 10
	largest    = 256 << 10
	windowSize = 4 << 20
)

var errTruncated = errors.New("cdn: the origin's answer broke off")

// bodyOf is a complete body.
func bodyOf(chunks ...[]byte) *body {
	b := &body{done: true}
	for _, c := range chunks {
		if len(c) > 0 {
			b.chunks = append(b.chunks, c)
			b.end += int64(len(c))
		}
	}
	b.complete.Store(true)
	return b
}

// memory is the bytes that a complete body takes there: those of its chunks, which the allocator rounds up.
func (b *body) memory() (n int64) {
	if !b.complete.Load() {
		return b.size()
	}
	for _, c := range b.chunks {
		n += int64(cap(c))
	}
	return n
}

func (b *body) size() int64 {
	if b.complete.Load() {
		return b.end
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end
}

func (b *body) notify() {
	if b.wake != nil {
		close(b.wake)
		b.wake = nil
	}
}

// fill copies src to its end; the caller calls finish with the outcome. expect is the length, -1 when unknown. grown is
// told of each growth; when it says no, the body switches to passing on.
func (b *body) fill(src io.Reader, expect int64, grown func(total int64) (keep bool)) error {
	var free []byte // rest of the last chunk
	next := int64(smallest)
	if expect > 0 {
		next = min(expect, 1<<20)
	}
	for {
		if len(free) == 0 {
			if expect >= 0 {
				b.mu.Lock()
				left, have := expect-b.end, b.end
				b.mu.Unlock()
				// large chunks are written faster; an origin that promises more than it sends gets no more than it sent
				if left > 0 {
					next = min(left, max(1<<20, have))
				} else {
					next = 1 // room to see the end
				}
			}
			chunk := slices.Grow([]byte(nil), int(next)) // its capacity is what is really taken
			free = chunk[:next]
			b.mu.Lock()
			b.chunks = append(b.chunks, chunk)
			b.mu.Unlock()
			next = min(next*4, largest)
		}
		n, err := src.Read(free)
		free = free[n:]
		b.mu.Lock()
		if n > 0 {
			last := len(b.chunks) - 1
			b.chunks[last] = b.chunks[last][:len(b.chunks[last])+n]
			b.end += int64(n)
			b.notify()
		}
		end := b.end
		b.mu.Unlock()
		if n > 0 && !grown(end) && !b.pass() {
			err = context.Canceled // nobody is left to read
		}
		if err == io.EOF {
			if err = nil; expect >= 0 && end != expect {
				err = errTruncated
			}
			return err
		}
		if err != nil {
			return err
		}
	}
}

func (b *body) finish(err error) {
	b.mu.Lock()
	b.done, b.err = true, err
	if n := len(b.chunks); n > 0 && !b.window {
		last := b.chunks[n-1]
		switch {
		case len(last) == 0:
			b.chunks[n-1] = nil // the slot would hold its memory
			b.chunks = b.chunks[:n-1]
		case cap(last)-len(last) > len(last)/4: // keep no more than is used; readers hold the old one
			b.chunks[n-1] = append([]byte(nil), last...) // its capacity is what is really taken
		}
	}
	if err == nil && !b.window {
		b.readers = nil
		b.complete.Store(true)
	}
	b.notify()
	b.mu.Unlock()
}

// pass lets go what all have read and waits until the slowest reader is near; false when there is none.
func (b *body) pass() bool {
	for {
		b.mu.Lock()
		b.window = true
		if len(b.readers) == 0 {
			b.mu.Unlock()
			return false
		}
		slowest := b.end
		for r := range b.readers {
			slowest = min(slowest, r.at)
		}
		for len(b.chunks) > 1 && b.base+int64(len(b.chunks[0])) <= slowest {
			b.base += int64(len(b.chunks[0]))
			b.chunks = b.chunks[1:]
		}
		if b.end-slowest < windowSize {
			b.mu.Unlock()
			return true
		}
		if b.wake == nil {
			b.wake = make(chan struct{})
		}
		wake := b.wake
		b.mu.Unlock()
		<-wake // a reader moved or left
	}
}

// bodyReader reads from an offset on. It must be closed.
type bodyReader struct {
	b  *body
	at int64
}

// reader begins at offset at; false when that part has been let go.
func (b *body) reader(at int64) (*bodyReader, bool) {
	r := &bodyReader{b, at}
	if b.complete.Load() {
		return r, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if at < b.base {
		return nil, false
	}
	if b.readers == nil {
		b.readers = map[*bodyReader]struct{}{}
	}
	b.readers[r] = struct{}{}
	return r, true
}

// seek moves the reader forward.
func (r *bodyReader) seek(at int64) {
	if r.at == at {
		return
	}
	r.b.mu.Lock()
	r.at = at
	r.b.notify()
	r.b.mu.Unlock()
}

func (r *bodyReader) close() {
	b := r.b
	if b.complete.Load() {
		return
	}
	b.mu.Lock()
	delete(b.readers, r)
	if b.window {
		b.notify()
	}
	b.mu.Unlock()
}

// next returns the bytes that follow, io.EOF at the end. It waits for the filler, and calls idle before it does.
func (r *bodyReader) next(ctx context.Context, idle func()) ([]byte, error) {
	b := r.b
	if b.complete.Load() { // r is in no list any more: nobody else looks at its place
		p := b.part(r.at)
		if p == nil {
			return nil, io.EOF
		}
		r.at += int64(len(p))
		return p, nil
	}
	for {
		b.mu.Lock()
		if r.at < b.end {
			p := b.part(r.at)
			r.at += int64(len(p))
			if b.window {
				b.notify()
			}
			b.mu.Unlock()
			return p, nil
		}
		if b.done {
			err := b.err
			b.mu.Unlock()
			if err == nil {
				err = io.EOF
			}
			return nil, err
		}
		if b.wake == nil {
			b.wake = make(chan struct{})
		}
		wake := b.wake
		b.mu.Unlock()
		if idle != nil {
			idle()
			idle = nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// part returns the rest of the chunk that holds offset at; nil beyond the end.
func (b *body) part(at int64) []byte {
	off := b.base
	for _, c := range b.chunks {
		if at < off+int64(len(c)) {
			return c[at-off:]
		}
		off += int64(len(c))
	}
	return nil
}
