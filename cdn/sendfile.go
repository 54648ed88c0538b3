package cdn

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

// extent is a body on disk: served from there, the kernel copies it from its page cache to the connection without our
// seeing a byte (sendfile). So it is checked beforehand, and anew when the last time was a while ago.
type extent struct {
	seg     *segment
	at, len int64
	sum     uint64

	mu      sync.Mutex   // held while it is checked
	checked atomic.Int64 // Unix nanoseconds
}

// recheck is how long a checked extent is trusted: the machine's page cache may drop it and read it again from a disk
// that has gone bad meanwhile.
const recheck = time.Minute

var errGone = errors.New("cdn: disk: the segment is gone")

// open returns a file to read the extent from, for one reader at a time; done gives it back. An error means that the
// body is gone or damaged.
func (x *extent) open(now time.Time) (f *os.File, done func(), err error) {
	if !x.seg.reacquire() {
		return nil, nil, errGone
	}
	f, err = x.seg.handle()
	if err != nil {
		x.seg.release()
		return nil, nil, err
	}
	done = func() {
		x.seg.putBack(f)
		x.seg.release()
	}
	if now.UnixNano()-x.checked.Load() > int64(recheck) {
		if err = x.check(f, now); err != nil {
			done()
			return nil, nil, err
		}
	}
	return f, done, nil
}

func (x *extent) check(f *os.File, now time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if now.UnixNano()-x.checked.Load() <= int64(recheck) { // somebody else did
		return nil
	}
	sum := xxhash.New()
	buf := chunkPool.Get().(*[]byte)
	defer chunkPool.Put(buf)
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{io.NewSectionReader(f, x.at, x.len)},
		*buf); err != nil {
		return err
	}
	if sum.Sum64() != x.sum {
		return errDamaged
	}
	x.checked.Store(now.UnixNano())
	return nil
}

var chunkPool = sync.Pool{New: func() any {
	b := make([]byte, 256<<10)
	return &b
}}

// handle returns an open file with an offset of its own; sendfile moves it.
func (s *segment) handle() (*os.File, error) {
	s.mu.Lock()
	if n := len(s.handles); n > 0 {
		f := s.handles[n-1]
		s.handles = s.handles[:n-1]
		s.mu.Unlock()
		return f, nil
	}
	s.mu.Unlock()
	return os.Open(s.path)
}

func (s *segment) putBack(f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.handles) < 16 {
		s.handles = append(s.handles, f)
		return
	}
	f.Close()
}

// reacquire is acquire for those who do not know whether the segment still is there.
func (s *segment) reacquire() bool {
	for {
		n := s.users.Load()
		if n == 0 {
			return false
		}
		if s.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// readable is whether an object's body can be read; one on disk that can't is forgotten.
func (c *Cache) readable(o *object) bool {
	x := o.body.file
	if x == nil {
		return true
	}
	_, done, err := x.open(time.Now())
	if err != nil {
		c.remove(o)
		return false
	}
	done()
	return true
}

// hold opens the file of an object that a request found, before anything is said; false when it is gone or damaged:
// then this is a miss.
func (s *service) hold(o *object) bool {
	x := o.body.file
	if x == nil || x == s.extent {
		return true
	}
	f, done, err := x.open(s.now)
	if err != nil {
		s.e.c.remove(o)
		return false
	}
	s.letGo()
	s.file, s.extent, s.done = f, x, done
	return true
}

func (s *service) letGo() {
	if s.done != nil {
		s.done()
		s.file, s.extent, s.done = nil, nil, nil
	}
}

// sendFile writes a part of an extent. n is what was written; broken means that the file gave less than it should.
func sendFile(w io.Writer, f *os.File, at, size int64) (n int64, broken bool) {
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return 0, true
	}
	left := &io.LimitedReader{R: f, N: size}
	n, err := io.Copy(w, left)
	return n, err == nil && n < size
}
