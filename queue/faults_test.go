package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// faulty is a file system that fails on purpose.
type faulty struct {
	diskfile.FS
	budget    atomic.Int64 // bytes of new files that still fit; negative: no limit
	syncFails atomic.Bool
	writeFail atomic.Pointer[error]
	short     atomic.Bool
	synced    atomic.Int64
}

type faultyFile struct {
	diskfile.File
	fs    *faulty
	fresh bool // counts against the budget
	end   int64
}

func newFaulty(dir string) *faulty {
	f := &faulty{FS: diskfile.Dir(dir)}
	f.budget.Store(-1)
	return f
}

func (f *faulty) Create(name string) (diskfile.File, error) {
	x, err := f.FS.Create(name)
	return &faultyFile{File: x, fs: f, fresh: true}, err
}

func (f *faulty) Open(name string) (diskfile.File, error) {
	x, err := f.FS.Open(name)
	return &faultyFile{File: x, fs: f}, err
}

func (f *faultyFile) WriteAt(b []byte, at int64) (int, error) {
	if e := f.fs.writeFail.Load(); e != nil {
		if f.fs.short.Load() {
			n, _ := f.File.WriteAt(b[:len(b)/2], at)
			return n, *e
		}
		return 0, *e
	}
	if f.fresh && at+int64(len(b)) > f.end {
		if left := f.fs.budget.Load(); left >= 0 {
			if left < int64(len(b)) {
				return 0, syscall.ENOSPC
			}
			f.fs.budget.Add(-int64(len(b)))
		}
		f.end = at + int64(len(b))
	}
	return f.File.WriteAt(b, at)
}

func (f *faultyFile) Datasync() error {
	if f.fs.syncFails.Load() {
		return syscall.EIO
	}
	f.fs.synced.Add(1)
	return f.File.Datasync()
}

const tiny = 256 << 10

func openFaulty(t *testing.T, dir string) (*Queue, *engine, *faulty) {
	fs := newFaulty(dir)
	e, err := openEngine(dir, Options{SegmentBytes: tiny}, fs)
	require.NoError(t, err)
	q := New(e)
	t.Cleanup(func() { q.Close() })
	return q, e, fs
}

// A failed fsync or write fails every publisher of its batch and after, for good, and what was acknowledged before is
// all there after reopening.
func TestFailedDiskIsFinal(t *testing.T) {
	for name, breakIt := range map[string]func(*faulty){
		"fsync": func(f *faulty) { f.syncFails.Store(true) },
		"write": func(f *faulty) { err := error(syscall.EIO); f.writeFail.Store(&err) },
		"short": func(f *faulty) { err := error(syscall.EIO); f.short.Store(true); f.writeFail.Store(&err) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			q, _, fs := openFaulty(t, dir)
			g, err := q.Group(t.Context(), "t", "g", GroupOptions{})
			require.NoError(t, err)
			for i := range 10 {
				_, err := q.Publish(t.Context(), Message{Topic: "t", Body: fmt.Append(nil, i)})
				require.NoError(t, err)
			}
			ds, err := g.Fetch(t.Context(), 1)
			require.NoError(t, err)
			breakIt(fs)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					_, err := q.Publish(t.Context(), Message{Topic: "t", Body: []byte("lost")})
					if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			fs.syncFails.Store(false)
			fs.writeFail.Store(nil)
			_, err = q.Publish(t.Context(), Message{Topic: "t"})
			require.ErrorIs(t, err, ErrFailed, "also when the disk says that all is well again")
			require.ErrorIs(t, ds[0].Ack(t.Context()), ErrFailed)
			require.NoError(t, q.Close())

			q, _, _ = openFaulty(t, dir)
			g, err = q.Group(t.Context(), "t", "g", GroupOptions{})
			require.NoError(t, err)
			seen := map[string]bool{}
			l, _ := g.Lag(t.Context())
			for len(seen) < l.Ready {
				ds, err := g.Fetch(t.Context(), 100)
				require.NoError(t, err)
				for _, d := range ds {
					seen[string(d.Body)] = true
				}
				if _, more := seen["lost"]; more && len(seen) == 11 {
					break
				}
			}
			for i := range 10 {
				require.True(t, seen[fmt.Sprint(i)], i)
			}
		})
	}
}

// A full disk refuses publishers with ENOSPC, takes acks from its reserve, and goes on when these have made room.
// Nothing acknowledged is lost.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	q, _, fs := openFaulty(t, dir)
	fs.budget.Store(2 * tiny)
	g, err := q.Group(t.Context(), "t", "g", GroupOptions{})
	require.NoError(t, err)
	body := make([]byte, 4000)
	published := 0
	for ; published < 1000; published++ {
		if _, err = q.Publish(t.Context(), Message{Topic: "t", Body: body}); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Greater(t, published, 100)
	require.Less(t, published, 250)
	require.Positive(t, q.Stats().Rejected)
	for i := range published {
		ds, err := g.Fetch(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, ds[0].Ack(t.Context()), "ack %d", i)
	}
	require.Eventually(t, func() bool {
		_, err = q.Publish(t.Context(), Message{Topic: "t", Body: []byte("there is room again")})
		return err == nil
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, q.Close())
	q, _, _ = openFaulty(t, dir)
	g, err = q.Group(t.Context(), "t", "g", GroupOptions{})
	require.NoError(t, err)
	ds, err := g.Fetch(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.Equal(t, "there is room again", string(ds[0].Body))
}

// Publish returns only after an fdatasync, and producers share them.
func TestGroupCommit(t *testing.T) {
	q, _, fs := openFaulty(t, t.TempDir())
	before := fs.synced.Load()
	_, err := q.Publish(t.Context(), Message{})
	require.NoError(t, err)
	require.Equal(t, before+1, fs.synced.Load())
	before = fs.synced.Load()
	var wg sync.WaitGroup
	const producers, each = 32, 30
	for range producers {
		wg.Go(func() {
			for range each {
				if _, err := q.Publish(t.Context(), Message{Body: make([]byte, 100)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := fs.synced.Load() - before
	require.GreaterOrEqual(t, n, int64(each))
	require.Less(t, n, int64(producers*each/3), "%d syncs for %d messages", n, producers*each)
}

// A producer whose context ends while the disk is slow gets an error that says so.
func TestPublishHonoursItsContext(t *testing.T) {
	q, e, _ := openFaulty(t, t.TempDir())
	e.state.Lock() // the committer stops before it makes the batch visible
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if e.topic("") == nil {
		e.ensureTopic("")
	}
	_, err := q.Publish(ctx, Message{})
	e.state.Unlock()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "unknown")
}

// Memory for a long backlog stays small.
func TestBacklogIsCheap(t *testing.T) {
	var q refQueue
	for i := range 2_000_000 {
		q.push(ref{seq: uint64(i)})
	}
	bytes := 0
	for _, c := range q.chunks {
		bytes += cap(c) * 24
	}
	require.Less(t, bytes, 60<<20)
	for i := range 2_000_000 {
		r, ok := q.pop()
		require.True(t, ok)
		if r.seq != uint64(i) {
			t.Fatal(r.seq, i)
		}
	}
	require.LessOrEqual(t, len(q.chunks), 1)
}

func FuzzScan(f *testing.F) {
	dir := f.TempDir()
	e, err := openEngine(dir, Options{SegmentBytes: tiny}, diskfile.Dir(dir))
	require.NoError(f, err)
	q := New(e)
	for i := range 5 {
		_, err := q.Publish(context.Background(),
			Message{Topic: "t", ID: fmt.Sprint(i), Key: "k", Header: map[string]string{"a": "b"}, Body: []byte("body")})
		require.NoError(f, err)
	}
	buf := make([]byte, 2048)
	_, err = e.active.file.ReadAt(buf, 0)
	require.NoError(f, err)
	epoch := e.active.epoch
	q.Close()
	f.Add(buf, 300, byte(7))
	f.Add(buf[:700], 64, byte(255))
	f.Fuzz(func(t *testing.T, data []byte, at int, flip byte) {
		if at > 0 && at < len(data) {
			data = append([]byte(nil), data...)
			data[at] ^= flip
		}
		seg := &segment{id: 1, epoch: epoch, size: int64(len(data)), file: memFile(data)}
		s := &scanner{seg: seg, expected: 1, damaged: func(d damage, _ bool) {
			if d.offset < 0 || d.length <= 0 || d.offset+d.length > seg.size {
				t.Fatalf("damage %+v outside of %d bytes", d, seg.size)
			}
		}, visit: func(en entry) error {
			p := reads(en.payload)
			if en.kind == kindPublish {
				if m, _ := p.message(); !p.Bad && string(m.Body) != "body" {
					t.Fatalf("damaged body %q", m.Body)
				}
			}
			r := &recovery{e: &engine{}, groups: map[uint32]*recovered{}, copies: map[uint64]copyOf{}}
			return r.apply(seg, en)
		}}
		if err := s.run(); err != nil {
			t.Fatal(err)
		}
	})
}

type memFile []byte

func (m memFile) ReadAt(b []byte, at int64) (int, error) {
	n := copy(b, m[min(int64(len(m)), at):])
	if n < len(b) {
		return n, errors.New("EOF")
	}
	return n, nil
}
func (m memFile) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (m memFile) Datasync() error                    { return nil }
func (m memFile) Sync() error                        { return nil }
func (m memFile) Size() (int64, error)               { return int64(len(m)), nil }
func (m memFile) Close() error                       { return nil }

// held is a file system whose files call a function before they sync.
type held struct {
	diskfile.FS
	sync atomic.Pointer[func()]
}

type heldFile struct {
	diskfile.File
	fs *held
}

func (h *held) Create(name string) (diskfile.File, error) {
	f, err := h.FS.Create(name)
	return &heldFile{f, h}, err
}

func (f *heldFile) Datasync() error {
	if do := f.fs.sync.Load(); do != nil {
		(*do)()
	}
	return f.File.Datasync()
}

func openHeld(t *testing.T, dir string) (*Queue, *engine, *held) {
	fs := &held{FS: diskfile.Dir(dir)}
	e, err := openEngine(dir, Options{SegmentBytes: tiny}, fs)
	require.NoError(t, err)
	q := New(e)
	t.Cleanup(func() { q.Close() })
	return q, e, fs
}

// A message that is settled while its copy is on the way to the disk does not keep a segment for ever, whatever waits
// in other topics.
func TestSettledWhileItIsCopied(t *testing.T) {
	q, e, fs := openHeld(t, t.TempDir())
	_, err := q.Publish(t.Context(), Message{Topic: "nobody reads this"})
	require.NoError(t, err)
	g, err := q.Group(t.Context(), "t", "g", GroupOptions{Lease: time.Hour})
	require.NoError(t, err)
	_, err = q.Publish(t.Context(), Message{Topic: "t", Body: []byte("old")})
	require.NoError(t, err)
	old, err := g.Fetch(t.Context(), 1)
	require.NoError(t, err)
	settled := make(chan error, 1)
	var once sync.Once
	atDisk := func() {
		e.mu.Lock()
		copies := e.inflight != nil && slices.ContainsFunc(e.inflight.copies, func(c copying) bool {
			return c.old.seq == old[0].Seq
		})
		e.mu.Unlock()
		if copies {
			once.Do(func() {
				go func() { settled <- g.Ack(t.Context(), old...) }()
				for acked := false; !acked; runtime.Gosched() {
					acked = isSettled(e, g.driver.(*logGroup).g, old[0].Seq)
				}
			})
		}
	}
	fs.sync.Store(&atDisk)
	body := make([]byte, 4000)
	for range 1000 {
		_, err := q.Publish(t.Context(), Message{Topic: "t", Body: body})
		require.NoError(t, err)
		ds, err := g.Fetch(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, g.Ack(t.Context(), ds...))
	}
	select {
	case err := <-settled:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		t.Fatal("it was not copied")
	}
	e.state.Lock()
	defer e.state.Unlock()
	live := 0
	for _, s := range e.segments {
		require.GreaterOrEqual(t, s.live, 0)
		live += s.live
	}
	require.Equal(t, 1, live, "what nobody reads")
}

func isSettled(e *engine, g *groupState, seq uint64) bool {
	e.state.Lock()
	defer e.state.Unlock()
	return !g.live.has(seq)
}

// A group that could not be written down is not there: the next attempt makes it, and it gets what was published
// before.
func TestFirstGroupOnAFullDisk(t *testing.T) {
	q, _, fs := openFaulty(t, t.TempDir())
	_, err := q.Publish(t.Context(), Message{Topic: "t", Body: []byte("early")})
	require.NoError(t, err)
	fs.budget.Store(0)
	for err == nil {
		_, err = q.Publish(t.Context(), Message{Body: make([]byte, 4000)})
	}
	for i := 0; ; i++ { // settlements and groups may use the reserve
		if _, err = q.Group(t.Context(), fmt.Sprint(i), "g", GroupOptions{}); err != nil {
			break
		}
	}
	_, err = q.Group(t.Context(), "t", "g", GroupOptions{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	fs.budget.Store(-1)
	var g *Group
	require.Eventually(t, func() bool {
		g, err = q.Group(t.Context(), "t", "g", GroupOptions{})
		return err == nil
	}, 30*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ds, err := g.Fetch(ctx, 10)
	require.NoError(t, err)
	require.Len(t, ds, 1)
	require.Equal(t, "early", string(ds[0].Body))
}

// What was on its way to the disk when a later group was made is not for that group, before a restart as after it.
func TestGroupMadeDuringACommit(t *testing.T) {
	dir := t.TempDir()
	q, e, fs := openHeld(t, dir)
	_, err := q.Group(t.Context(), "t", "first", GroupOptions{})
	require.NoError(t, err)
	made := make(chan error, 1)
	var g *Group
	var once sync.Once
	atDisk := func() {
		once.Do(func() {
			go func() {
				var err error
				g, err = q.Group(t.Context(), "t", "second", GroupOptions{})
				made <- err
			}()
			for begun := false; !begun; runtime.Gosched() {
				e.mu.Lock()
				begun = e.cur.count > 0
				e.mu.Unlock()
			}
		})
	}
	fs.sync.Store(&atDisk)
	_, err = q.Publish(t.Context(), Message{Topic: "t"})
	require.NoError(t, err)
	require.NoError(t, <-made)
	before, err := g.Lag(t.Context())
	require.NoError(t, err)
	require.NoError(t, q.Close())
	q, _, _ = openHeld(t, dir)
	g, err = q.Group(t.Context(), "t", "second", GroupOptions{})
	require.NoError(t, err)
	after, err := g.Lag(t.Context())
	require.NoError(t, err)
	require.Equal(t, after.Ready, before.Ready)
	require.Zero(t, after.Ready)
}

// A backup, and the carrying of message IDs, that a full disk has refused leave nothing behind that keeps segments or
// forgets IDs.
func TestRefusedByAFullDisk(t *testing.T) {
	q, e, fs := openFaulty(t, t.TempDir())
	ids := 0
	var err error
	for ; err == nil; ids++ {
		if ids == 20 {
			fs.budget.Store(0)
		}
		_, err = q.Publish(t.Context(), Message{ID: fmt.Sprint(ids), Body: make([]byte, 4000)})
	}
	ids-- // the last was refused
	for { // settlements and the like may use the reserve
		w, err := e.note(kindNothing, true, func(b []byte) []byte { return b })
		if err != nil {
			break
		}
		require.NoError(t, w.wait(t.Context()))
	}
	require.ErrorIs(t, q.Snapshot(t.Context(), io.Discard), syscall.ENOSPC)
	e.mu.Lock()
	limit := e.nextSeq
	e.mu.Unlock()
	require.False(t, e.carryIDs(limit))
	fs.budget.Store(-1)
	require.Eventually(t, func() bool {
		_, err := q.Publish(t.Context(), Message{})
		return err == nil
	}, 30*time.Second, time.Millisecond)
	e.state.Lock()
	for _, s := range e.segments {
		require.Zero(t, s.pins)
	}
	e.state.Unlock()
	e.mu.Lock()
	keys, _ := e.seen.carry(limit, time.Now().UnixNano(), 4096)
	e.mu.Unlock()
	require.Len(t, keys, ids)
}
