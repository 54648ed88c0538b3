package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tierkit/tierkit/internal/diskfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const tiny = 64 << 10

// replayed opens a journal and returns what it holds.
func replayed(t require.TestingT, dir string, fs diskfile.FS) (*Journal, map[uint64]string, map[uint64]string) {
	got, notes := map[uint64]string{}, map[uint64]string{}
	last := uint64(0)
	j, err := open(dir, Options{SegmentBytes: tiny}, fs, func(seq uint64, payload, note []byte) error {
		require.Greater(t, seq, last, "in order")
		last = seq
		got[seq] = string(payload)
		if note != nil {
			notes[seq] = string(note)
		}
		return nil
	})
	require.NoError(t, err)
	return j, got, notes
}

func add(t require.TestingT, j *Journal, s string) (seq uint64) {
	require.NoError(t, j.Append(context.Background(), []byte(s), func(n uint64) { seq = n }))
	require.NotZero(t, seq)
	return seq
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	j, got, _ := replayed(t, dir, diskfile.Dir(dir))
	require.Empty(t, got)
	a, b, c := add(t, j, "a"), add(t, j, "b"), add(t, j, "c")
	j.Settle(b)
	j.Note(c, []byte("poison"))
	require.NoError(t, j.Close())
	require.NoError(t, j.Close())
	require.ErrorIs(t, j.Append(t.Context(), nil, nil), ErrClosed)

	j, got, notes := replayed(t, dir, diskfile.Dir(dir))
	require.Equal(t, map[uint64]string{a: "a", c: "c"}, got)
	require.Equal(t, map[uint64]string{c: "poison"}, notes)
	j.Note(c, nil)
	require.Greater(t, add(t, j, "d"), c)
	require.NoError(t, j.Close())
	j, _, notes = replayed(t, dir, diskfile.Dir(dir))
	require.Empty(t, notes)
	require.NoError(t, j.Close())
}

func TestOptions(t *testing.T) {
	none := func(uint64, []byte, []byte) error { return nil }
	_, err := Open("", Options{}, none)
	require.ErrorContains(t, err, "directory")
	_, err = Open(t.TempDir(), Options{SegmentBytes: 1}, none)
	require.ErrorContains(t, err, "SegmentBytes")
	dir := t.TempDir()
	j, err := Open(dir, Options{}, none)
	require.NoError(t, err)
	_, err = Open(dir, Options{}, none)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorIs(t, j.Append(t.Context(), make([]byte, 2<<20), nil), ErrTooLarge)
	require.NoError(t, j.Append(t.Context(), make([]byte, 2<<20-frameHeader-recordHeader), nil))
	require.NoError(t, j.Close())
	refused := errors.New("not today")
	_, err = Open(dir, Options{}, func(uint64, []byte, []byte) error { return refused })
	require.ErrorIs(t, err, refused)
}

// Many at once share a frame, and are applied in the order of their numbers.
func TestGroupCommit(t *testing.T) {
	dir := t.TempDir()
	j, _, _ := replayed(t, dir, diskfile.Dir(dir))
	var order []uint64
	want := map[uint64]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := range 50 {
				s := fmt.Sprintf("%d/%d", w, i)
				if err := j.Append(context.Background(), []byte(s), func(seq uint64) {
					order = append(order, seq) // unsynchronised: the calls come one at a time
					mu.Lock()
					want[seq] = s
					mu.Unlock()
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.True(t, slices.IsSorted(order))
	require.Len(t, order, 1600)
	require.Less(t, j.Stats().Syncs, int64(1600))
	require.NoError(t, j.Close())
	j, got, _ := replayed(t, dir, diskfile.Dir(dir))
	require.Equal(t, want, got)
	require.NoError(t, j.Close())
}

// A few entries that stay do not keep the space of the many that go.
func TestSpaceIsBounded(t *testing.T) {
	dir := t.TempDir()
	j, _, _ := replayed(t, dir, diskfile.Dir(dir))
	body := string(make([]byte, 1000))
	want := map[uint64]string{}
	for i := range 3000 {
		s := fmt.Sprint(i, body)
		n := add(t, j, s)
		if i%500 == 0 {
			want[n] = s
			j.Note(n, []byte("stays"))
		} else {
			j.Settle(n)
		}
		require.LessOrEqual(t, j.Stats().Segments, int64(16))
	}
	require.Positive(t, j.Stats().Moved)
	require.Eventually(t, func() bool { return j.Stats().Bytes <= 8*tiny }, 20*time.Second, time.Millisecond)
	require.NoError(t, j.Close())
	names, err := diskfile.Dir(dir).List()
	require.NoError(t, err)
	require.LessOrEqual(t, len(names), 9)
	j, got, notes := replayed(t, dir, diskfile.Dir(dir))
	require.Equal(t, want, got)
	require.Len(t, notes, len(want))
	require.NoError(t, j.Close())
}

// What was cut off at any byte costs what was not acknowledged then, and nothing else.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	j, _, _ := replayed(t, dir, diskfile.Dir(dir))
	var ends []int64
	for i := range 5 {
		add(t, j, fmt.Sprint("entry ", i))
		ends = append(ends, j.active.end)
	}
	name := j.active.name()
	require.NoError(t, j.Close())
	data, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	lock := t.TempDir()
	for cut := int64(segmentHeader); cut <= ends[4]; cut += 3 {
		whole := 0
		for _, e := range ends {
			if e <= cut {
				whole++
			}
		}
		for _, garbage := range []bool{false, true} {
			x := slices.Clone(data)
			clear(x[cut:])
			if garbage {
				for i := cut; i < ends[4]; i++ {
					x[i] = byte(i * 7)
				}
			}
			disk := newMemory()
			disk.names[name] = &memoryFile{disk: disk, data: x}
			j, got, _ := replayed(t, lock, disk)
			require.GreaterOrEqual(t, len(got), whole, "cut at %d", cut)
			require.LessOrEqual(t, len(got), whole+1) // padding may be gone
			n := add(t, j, "more")
			require.NoError(t, j.Close())
			j, again, _ := replayed(t, lock, disk)
			got[n] = "more"
			require.Equal(t, got, again, "the hole stays where it is")
			require.NoError(t, j.Close())
		}
	}
}

// Damage in what was once durable is not taken for a cut-off write.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	j, _, _ := replayed(t, dir, diskfile.Dir(dir))
	var ends []int64
	for i := range 3 {
		add(t, j, fmt.Sprint("entry ", i))
		ends = append(ends, j.active.end)
	}
	name := j.active.name()
	require.NoError(t, j.Close())
	data, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	for at := range ends[1] {
		// within the header's checksum but for this; padding
		if at >= 24 && at < 28 || at >= ends[0]-1 && at < ends[0] {
			continue
		}
		x := slices.Clone(data)
		x[at] ^= 0x40
		disk := newMemory()
		disk.names[name] = &memoryFile{disk: disk, data: x}
		j, err := open(dir, Options{SegmentBytes: tiny}, disk, func(uint64, []byte, []byte) error { return nil })
		if err == nil { // only in padding
			n := len(j.entries)
			require.NoError(t, j.Close())
			require.Equal(t, 3, n, "byte %d", at)
			continue
		}
		require.ErrorIs(t, err, ErrCorrupt, "byte %d", at)
	}
}

// faulty is a file system that fails on purpose.
type faulty struct {
	diskfile.FS
	budget    atomic.Int64 // bytes of new files that still fit; negative: no limit
	syncFails atomic.Bool
	writeFail atomic.Bool
}

type faultyFile struct {
	diskfile.File
	fs  *faulty
	end int64
}

func newFaulty(dir string) *faulty {
	f := &faulty{FS: diskfile.Dir(dir)}
	f.budget.Store(-1)
	return f
}

func (f *faulty) Create(name string) (diskfile.File, error) {
	x, err := f.FS.Create(name)
	return &faultyFile{x, f, 0}, err
}

func (f *faulty) Open(name string) (diskfile.File, error) {
	x, err := f.FS.Open(name)
	return &faultyFile{x, f, 1 << 40}, err
}

func (f *faultyFile) WriteAt(b []byte, at int64) (int, error) {
	if f.fs.writeFail.Load() {
		n, _ := f.File.WriteAt(b[:len(b)/2], at)
		return n, syscall.EIO
	}
	if n := at + int64(len(b)) - f.end; n > 0 {
		if left := f.fs.budget.Load(); left >= 0 {
			if left < n {
				return 0, syscall.ENOSPC
			}
			f.fs.budget.Add(-n)
		}
		f.end += n
	}
	return f.File.WriteAt(b, at)
}

func (f *faultyFile) Datasync() error {
	if f.fs.syncFails.Load() {
		return syscall.EIO
	}
	return f.File.Datasync()
}

// After a failed write or sync the journal takes nothing more, and what was acknowledged is there at the next open.
func TestFailedDiskIsFinal(t *testing.T) {
	for name, breakIt := range map[string]func(*faulty){
		"fsync": func(f *faulty) { f.syncFails.Store(true) },
		"write": func(f *faulty) { f.writeFail.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fs := newFaulty(dir)
			j, _, _ := replayed(t, dir, fs)
			n := add(t, j, "good")
			breakIt(fs)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					if err := j.Append(context.Background(), []byte("bad"), nil); !errors.Is(err, ErrFailed) ||
						!errors.Is(err, syscall.EIO) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			fs.syncFails.Store(false)
			fs.writeFail.Store(false)
			require.ErrorIs(t, j.Append(t.Context(), []byte("bad"), nil), ErrFailed,
				"also when the disk says that all is well again")
			_ = j.Close()
			j, got, _ := replayed(t, dir, diskfile.Dir(dir))
			require.Equal(t, "good", got[n])
			require.NoError(t, j.Close())
		})
	}
}

// A full disk refuses with ENOSPC, loses nothing, and goes on when settled entries have made room.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	fs := newFaulty(dir)
	fs.budget.Store(4 * tiny)
	j, _, _ := replayed(t, dir, fs)
	body := string(make([]byte, 2000))
	want := map[uint64]string{}
	var seqs []uint64
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		s := fmt.Sprint(i, body)
		err = j.Append(t.Context(), []byte(s), func(seq uint64) {
			want[seq] = s
			seqs = append(seqs, seq)
		})
	}
	require.ErrorIs(t, err, ErrNoRoom)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Greater(t, len(want), 64)
	require.ErrorIs(t, j.Append(t.Context(), []byte(body), nil), ErrNoRoom, "still")
	for _, n := range seqs[:len(seqs)*3/4] {
		j.Settle(n)
		delete(want, n)
	}
	require.Eventually(t, func() bool {
		return j.Append(t.Context(), []byte(body), func(seq uint64) { want[seq] = body }) == nil
	}, 20*time.Second, time.Millisecond, "used again")
	require.NoError(t, j.Close())
	j, got, _ := replayed(t, dir, diskfile.Dir(dir))
	require.Equal(t, want, got)
	require.NoError(t, j.Close())
}

// A caller that gives up does not know, and the entry may be there.
func TestContext(t *testing.T) {
	dir := t.TempDir()
	j, _, _ := replayed(t, dir, diskfile.Dir(dir))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, j.Append(ctx, []byte("x"), nil), context.Canceled)
	require.NoError(t, j.Close())
}

// TestModel holds the journal against a map, through clean ends and cut-off files.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "journal")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		disk := newMemory()
		j, _, _ := replayed(t, dir, disk)
		defer func() { j.Close() }()
		want, notes, settled := map[uint64]string{}, map[uint64]string{}, map[uint64]bool{}
		some := func() uint64 {
			keys := slices.Sorted(maps.Keys(want))
			return keys[rapid.IntRange(0, len(keys)-1).Draw(t, "which")]
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				s := string(make([]byte, rapid.IntRange(0, 8000).Draw(t, "size")))
				for range rapid.IntRange(1, 5).Draw(t, "n") {
					want[add(t, j, s)] = s
				}
			},
			"settle": func(t *rapid.T) {
				for range rapid.IntRange(1, 5).Draw(t, "n") {
					if len(want) == 0 {
						return
					}
					n := some()
					j.Settle(n)
					delete(want, n)
					delete(notes, n)
					settled[n] = true
				}
			},
			"note": func(t *rapid.T) {
				if len(want) == 0 {
					return
				}
				n := some()
				notes[n] = "note"
				j.Note(n, []byte("note"))
			},
			"reopen": func(t *rapid.T) {
				require.NoError(t, j.Close())
				var got, gotNotes map[uint64]string
				j, got, gotNotes = replayed(t, dir, disk)
				require.Equal(t, want, got)
				require.Equal(t, notes, gotNotes)
			},
			"": func(t *rapid.T) {
				st := j.Stats()
				require.Equal(t, int64(len(want)), st.Entries)
			},
		})
	})
}

// FuzzRecover: whatever a segment holds, opening ends with entries or an error.
func FuzzRecover(f *testing.F) {
	dir := f.TempDir()
	j, err := open(dir, Options{SegmentBytes: tiny}, diskfile.Dir(dir), func(uint64, []byte, []byte) error {
		return nil
	})
	require.NoError(f, err)
	n := add(f, j, "one")
	add(f, j, "two")
	j.Note(n, []byte("x"))
	name := j.active.name()
	require.NoError(f, j.Close())
	data, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(f, err)
	f.Add(data[:512], true)
	f.Add(data[:segmentHeader+40], true)
	f.Add(data[segmentHeader:512], false)
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		if !whole { // past the checksums: records
			j := &Journal{entries: map[uint64]*entry{}}
			s := &segment{}
			if err := j.readFrame(s, segmentHeader, frame{records: b}, map[uint64][]byte{}); err == nil {
				if s.live != len(j.entries) || s.live < 0 || s.liveBytes < 0 {
					t.Fatal(s.live, s.liveBytes, len(j.entries))
				}
			}
			return
		}
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
		count := 0
		j, err := open(dir, Options{SegmentBytes: tiny}, diskfile.Dir(dir), func(_ uint64, p, _ []byte) error {
			count++
			return nil
		})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if int64(count) != j.Stats().Entries {
			t.Fatal(count, j.Stats())
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
