package queue_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

// copyDir copies a queue's directory, as a crash at this moment would leave it to the next process. Of a queue at work
// it takes a copy during which no file came, went or was renamed: what is appended meanwhile is then the end of one
// file, as after a crash.
func copyDir(t testing.TB, from string) string {
	names := func() (ns []string) {
		es, err := os.ReadDir(from)
		require.NoError(t, err)
		for _, e := range es {
			ns = append(ns, e.Name())
		}
		return ns
	}
	for deadline := time.Now().Add(time.Minute); ; {
		to, before := t.TempDir(), names()
		var err error
		for _, name := range before {
			if err = copyFile(filepath.Join(to, name), filepath.Join(from, name)); err != nil {
				break
			}
		}
		if err == nil && slices.Equal(before, names()) {
			return to
		}
		if err != nil {
			require.ErrorIs(t, err, os.ErrNotExist)
		}
		require.True(t, time.Now().Before(deadline), "the files of %s never stood still for a copy", from)
		require.NoError(t, os.RemoveAll(to))
	}
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

func logFiles(t testing.TB, dir string) []string {
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	sort.Strings(names)
	return names
}

type report struct {
	file           string
	offset, length int64
}

func watch(rs *[]report) *queue.Hooks {
	var mu sync.Mutex
	return &queue.Hooks{Corrupt: func(file string, offset, length int64, err error) {
		mu.Lock()
		defer mu.Unlock()
		*rs = append(*rs, report{file, offset, length})
	}}
}

// The last frame is cut, zeroed, flipped and overwritten at each of its bytes: everything before it is delivered, no
// damaged body ever, and a second opening finds what the first one did.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{})
	g := group(t, q, queue.GroupOptions{})
	for i := range 5 {
		publish(t, q, queue.Message{Topic: "t", Body: fmt.Append(nil, "keep", i)})
	}
	before := snapshot(t, dir)
	_, err := q.PublishBatch(t.Context(), []queue.Message{{Topic: "t", Body: []byte("tail-0")},
		{Topic: "t", Body: []byte("tail-1")}})
	require.NoError(t, err)
	after := snapshot(t, dir)
	_ = g
	q.Close()
	from, to := differ(before, after)
	require.Positive(t, to-from)
	r := rand.New(rand.NewPCG(1, 2))
	for at := from; at < to; at++ {
		for _, how := range []string{"cut", "zero", "flip", "garbage"} {
			work := t.TempDir()
			data := append([]byte(nil), after.data...)
			switch how {
			case "cut":
				clear(data[at:])
			case "zero":
				data[at] = 0
			case "flip":
				data[at] ^= 1 << r.IntN(8)
			case "garbage":
				for i := at; i < to; i++ {
					data[i] = byte(r.Uint32())
				}
			}
			require.NoError(t, os.WriteFile(filepath.Join(work, after.name), data, 0o600))
			var first []string
			for range 2 {
				q, err := queue.Open(work, queue.Options{SegmentBytes: small})
				require.NoError(t, err)
				g := group(t, q, queue.GroupOptions{MaxDeliveries: -1})
				l, _ := g.Lag(t.Context())
				var got []string
				for _, d := range fetchN(t, g, l.Ready) {
					got = append(got, string(d.Body))
				}
				require.NoError(t, q.Close())
				sort.Strings(got)
				if first == nil {
					first = got
				}
				require.Equal(t, first, got, "%s at %d: both openings agree", how, at)
				require.GreaterOrEqual(t, len(got), 5, "%s at %d", how, at)
				for i := range 5 {
					require.Equal(t, fmt.Sprint("keep", i), got[i], "%s at %d", how, at)
				}
				for _, b := range got[5:] {
					require.Contains(t, []string{"tail-0", "tail-1"}, b, "%s at %d", how, at)
				}
			}
		}
	}
}

type image struct {
	name string
	data []byte
}

func snapshot(t testing.TB, dir string) image {
	name := logFiles(t, dir)[0]
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return image{filepath.Base(name), data}
}

func differ(a, b image) (from, to int) {
	for from < len(a.data) && a.data[from] == b.data[from] {
		from++
	}
	for to = len(a.data); to > from && a.data[to-1] == b.data[to-1]; to-- {
	}
	return from, to
}

// One flipped bit anywhere in the log costs at most the records it touches, and is reported.
func TestFlippedBitInsideTheLog(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{})
	group(t, q, queue.GroupOptions{})
	const n = 60
	for i := 0; i < n; i += 3 {
		batch := make([]queue.Message, 3)
		for k := range batch {
			batch[k] = queue.Message{Topic: "t", Body: fmt.Appendf(nil, "message %03d", i+k)}
		}
		_, err := q.PublishBatch(t.Context(), batch)
		require.NoError(t, err)
	}
	q.Close()
	img := snapshot(t, dir)
	used := len(img.data)
	for used > 0 && img.data[used-1] == 0 {
		used--
	}
	r := rand.New(rand.NewPCG(3, 4))
	lostMost := 0
	for range 300 {
		at := r.IntN(used-200) + 64
		work := t.TempDir()
		data := append([]byte(nil), img.data...)
		data[at] ^= 1 << r.IntN(8)
		require.NoError(t, os.WriteFile(filepath.Join(work, img.name), data, 0o600))
		var rs []report
		q, err := queue.Open(work, queue.Options{SegmentBytes: small, Hooks: watch(&rs)})
		require.NoError(t, err)
		g := group(t, q, queue.GroupOptions{})
		l, _ := g.Lag(t.Context())
		got := fetchN(t, g, l.Ready)
		for _, d := range got {
			require.Regexp(t, `^message \d{3}$`, string(d.Body))
			var i int
			fmt.Sscanf(string(d.Body), "message %d", &i)
			require.Less(t, i, n)
		}
		lost := n - len(got)
		if lost > 0 {
			require.NotEmpty(t, rs, "flip at %d lost %d messages without a report", at, lost)
			require.LessOrEqual(t, rs[0].offset, int64(at))
		}
		lostMost = max(lostMost, lost)
		require.NoError(t, q.Close())
	}
	require.LessOrEqual(t, lostMost, 3, "no more than one batch")
}

// A message whose body is damaged after recovery is never delivered.
func TestDamageWhileRunning(t *testing.T) {
	dir := t.TempDir()
	var rs []report
	q := open(t, dir, queue.Options{Hooks: watch(&rs)})
	g := group(t, q, queue.GroupOptions{})
	publish(t, q, queue.Message{Topic: "t", Body: []byte("will be damaged")})
	publish(t, q, queue.Message{Topic: "t", Body: []byte("fine")})
	img := snapshot(t, dir)
	at := int64(indexOf(img.data, "will be damaged"))
	f, err := os.OpenFile(filepath.Join(dir, img.name), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("X"), at)
	require.NoError(t, err)
	f.Close()
	ds := fetchN(t, g, 1)
	require.Equal(t, "fine", string(ds[0].Body))
	nothing(t, g)
	require.Len(t, rs, 1)
	require.EqualValues(t, 1, q.Stats().Quarantined)
}

func indexOf(data []byte, s string) int {
	for i := range data {
		if string(data[i:min(len(data), i+len(s))]) == s {
			return i
		}
	}
	return -1
}

// A directory copied at any moment under load is one a crash could leave: every message acknowledged by then is in it.
func TestCrashAtAnyMoment(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{})
	g := group(t, q, queue.GroupOptions{})
	stop := make(chan struct{})
	var mu sync.Mutex
	published, acking, acked := map[string]bool{}, map[string]bool{}, map[string]bool{}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for p := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", p, i)
				if _, err := q.Publish(t.Context(),
					queue.Message{Topic: "t", ID: id, Body: append([]byte(id), make([]byte, 500)...)}); err == nil {
					mu.Lock()
					published[id] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			ds, err := g.Fetch(t.Context(), 20)
			if err == nil {
				ds = ds[:(len(ds)+1)/2]
				mu.Lock()
				for _, d := range ds {
					acking[d.ID] = true
				}
				mu.Unlock()
				if g.Ack(t.Context(), ds...) == nil {
					mu.Lock()
					for _, d := range ds {
						acked[d.ID] = true
					}
					mu.Unlock()
				}
			}
		}
	})
	for range 8 {
		mu.Lock()
		pub, ack := clone(published), clone(acked)
		mu.Unlock()
		image := copyDir(t, dir)
		mu.Lock()
		ackLater := clone(acking)
		mu.Unlock()
		c, err := queue.Open(image, queue.Options{SegmentBytes: small})
		require.NoError(t, err)
		cg := group(t, c, queue.GroupOptions{})
		l, _ := cg.Lag(t.Context())
		got := map[string]bool{}
		for _, d := range fetchN(t, cg, l.Ready) {
			require.False(t, got[d.ID], "twice: %s", d.ID)
			require.False(t, ack[d.ID], "acknowledged and back: %s", d.ID)
			got[d.ID] = true
		}
		for id := range pub {
			require.True(t, got[id] || ackLater[id], "lost: %s", id)
		}
		require.NoError(t, c.Close())
	}
}

func clone(m map[string]bool) map[string]bool {
	c := make(map[string]bool, len(m))
	for k := range m {
		c[k] = true
	}
	return c
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	_, err := queue.Check(filepath.Join(dir, "nowhere"))
	require.ErrorIs(t, err, os.ErrNotExist)
	q := open(t, dir, queue.Options{})
	g := group(t, q, queue.GroupOptions{})
	for i := range 300 {
		publish(t, q, queue.Message{Topic: "t",
			Body: append(fmt.Append(nil, "message ", i, " "), make([]byte, 2000)...)})
	}
	ds := fetchN(t, g, 10)
	require.NoError(t, g.Ack(t.Context(), ds[:5]...))
	require.NoError(t, ds[5].Term(t.Context(), "x"))
	_, err = queue.Check(dir)
	require.ErrorIs(t, err, queue.ErrLocked)
	require.NoError(t, q.Close())
	before := fingerprint(t, dir)
	rep, err := queue.Check(dir)
	require.NoError(t, err)
	require.Empty(t, rep.Damage)
	require.Equal(t, 295, rep.Messages)
	require.Equal(t, 1, rep.Dead)
	require.Greater(t, rep.Segments, 2)

	img := snapshot(t, dir)
	at := indexOf(img.data, "message 7 ")
	f, err := os.OpenFile(filepath.Join(dir, img.name), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("X"), int64(at))
	require.NoError(t, err)
	f.Close()
	rep, err = queue.Check(dir)
	require.NoError(t, err)
	require.Len(t, rep.Damage, 1)
	require.Equal(t, img.name, rep.Damage[0].File)
	require.LessOrEqual(t, rep.Damage[0].Offset, int64(at))
	require.Greater(t, rep.Damage[0].Offset+rep.Damage[0].Length, int64(at))
	require.Equal(t, 294, rep.Messages)
	f, err = os.OpenFile(filepath.Join(dir, img.name), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("m"), int64(at))
	require.NoError(t, err)
	f.Close()
	require.Equal(t, before, fingerprint(t, dir), "Check changes nothing")
}

func fingerprint(t testing.TB, dir string) map[string]string {
	m := map[string]string{}
	for _, name := range logFiles(t, dir) {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		m[filepath.Base(name)] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return m
}

// A damaged header at the beginning of a later segment costs nothing: the records behind it are numbered on from the
// segment before.
func TestDamagedHeaderOfALaterSegment(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, queue.Options{})
	g := group(t, q, queue.GroupOptions{})
	for i := range 400 {
		publish(t, q, queue.Message{Topic: "t", Body: append(fmt.Append(nil, i, " "), make([]byte, 2000)...)})
	}
	ds := fetchN(t, g, 300)
	require.NoError(t, g.Ack(t.Context(), ds[290:]...))
	require.NoError(t, q.Close())
	// of the frame with the list of groups, and somewhere in the one behind it
	for _, header := range []int64{64, 64 + 48 + 24} {
		name := logFiles(t, dir)[1]
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		require.NoError(t, err)
		var b [1]byte
		_, err = f.ReadAt(b[:], header)
		require.NoError(t, err)
		b[0] ^= 4
		_, err = f.WriteAt(b[:], header)
		require.NoError(t, err)
		f.Close()
	}
	for range 2 {
		var rs []report
		q = open(t, dir, queue.Options{Hooks: watch(&rs)})
		require.NotEmpty(t, rs)
		g = group(t, q, queue.GroupOptions{})
		l, err := g.Lag(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, l.Ready, 389)
		seen := map[string]bool{}
		for _, d := range fetchN(t, g, l.Ready) {
			var i int
			fmt.Sscan(string(d.Body), &i)
			require.False(t, i >= 290 && i < 300, "%d was acknowledged", i)
			require.False(t, seen[fmt.Sprint(i)])
			seen[fmt.Sprint(i)] = true
		}
		require.NoError(t, q.Close())
	}
}
