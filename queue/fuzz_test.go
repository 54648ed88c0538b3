package queue

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// memFiles is a directory in memory.
type memFiles struct {
	mu sync.Mutex
	m  map[string]*memData
}

type memData struct {
	mu sync.Mutex
	b  []byte
}

func (f *memFiles) Create(name string) (diskfile.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m[name] != nil {
		return nil, os.ErrExist
	}
	f.m[name] = &memData{}
	return f.m[name], nil
}

func (f *memFiles) Open(name string) (diskfile.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.m[name]; d != nil {
		return d, nil
	}
	return nil, os.ErrNotExist
}

func (f *memFiles) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m[to] = f.m[from]
	delete(f.m, from)
	return nil
}

func (f *memFiles) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.m, name)
	return nil
}

func (f *memFiles) List() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.m)), nil
}

func (f *memFiles) SyncDir() error { return nil }

func (d *memData) ReadAt(b []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := copy(b, d.b[min(int64(len(d.b)), at):])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memData) WriteAt(b []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if need := at + int64(len(b)); need > int64(len(d.b)) {
		d.b = append(d.b, make([]byte, need-int64(len(d.b)))...)
	}
	return copy(d.b[at:], b), nil
}

func (d *memData) Size() (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.b)), nil
}

func (d *memData) Datasync() error { return nil }
func (d *memData) Sync() error     { return nil }
func (d *memData) Close() error    { return nil }

// FuzzRecovery damages a log with messages in all states anywhere, and opens it, twice: it never panics, and never
// delivers what was not published, or something twice.
func FuzzRecovery(f *testing.F) {
	ctx := context.Background()
	base := &memFiles{m: map[string]*memData{}}
	lock := f.TempDir()
	e, err := openEngine(lock, Options{SegmentBytes: tiny}, base)
	require.NoError(f, err)
	q := New(e)
	g, err := q.Group(ctx, "t", "g", GroupOptions{})
	require.NoError(f, err)
	const n = 60
	for i := range n {
		_, err := q.Publish(ctx, Message{Topic: "t", ID: fmt.Sprint(i), Key: []string{"", "a", "b"}[i%3],
			Body: fmt.Append(nil, "body of ", i)})
		require.NoError(f, err)
	}
	for range n / 3 {
		ds, err := g.Fetch(ctx, 1)
		require.NoError(f, err)
		switch ds[0].Seq % 4 {
		case 0, 1:
			err = ds[0].Ack(ctx)
		case 2:
			err = ds[0].Term(ctx, "poison")
		case 3:
			err = ds[0].Nack(ctx, time.Millisecond)
		}
		require.NoError(f, err)
	}
	require.NoError(f, q.Close())
	var name string // the segment in use, the others are empty
	for k, d := range base.m {
		if name == "" || slices.IndexFunc(base.m[name].b[segmentHeader:], func(c byte) bool { return c != 0 }) < 0 {
			name = k
		}
		_ = d
	}
	used := len(base.m[name].b)
	for used > 0 && base.m[name].b[used-1] == 0 {
		used--
	}
	f.Add(uint32(100), []byte{1}, false)
	f.Add(uint32(used/2), []byte("garbage that is longer than a record's header, and then some more of it"), false)
	f.Add(uint32(used-10), []byte{}, true)
	f.Fuzz(func(t *testing.T, at uint32, xor []byte, cut bool) {
		disk := &memFiles{m: map[string]*memData{}}
		for k, d := range base.m {
			disk.m[k] = &memData{b: slices.Clone(d.b)}
		}
		b := disk.m[name].b
		at %= uint32(used)
		for i, x := range xor {
			if int(at)+i < len(b) {
				b[int(at)+i] ^= x
			}
		}
		if cut {
			clear(b[at:])
		}
		dir := t.TempDir()
		for range 2 {
			e, err := openEngine(dir, Options{SegmentBytes: tiny}, disk)
			if err != nil {
				t.Fatal(err)
			}
			q := New(e)
			g, err := q.Group(ctx, "t", "g", GroupOptions{})
			require.NoError(t, err)
			seen := map[string]bool{}
			for {
				_, err := g.Peek(ctx, 1000)
				require.NoError(t, err)
				l, err := g.Lag(ctx)
				require.NoError(t, err)
				if l.Ready == 0 { // a damaged record may have delayed others for long
					break
				}
				fctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				ds, err := g.Fetch(fctx, 1000)
				cancel()
				if err != nil {
					continue // what was ready was found damaged when it was read
				}
				for _, d := range ds {
					if string(d.Body) != "body of "+d.ID || seen[d.ID] {
						t.Fatalf("delivered %q as %q", d.Body, d.ID)
					}
					seen[d.ID] = true
				}
				require.NoError(t, g.Ack(ctx, ds...))
			}
			dead, err := g.Dead(ctx, 100)
			require.NoError(t, err)
			for _, d := range dead {
				if d.ID != "" && string(d.Body) != "body of "+d.ID {
					t.Fatalf("dead letter %q as %q", d.Body, d.ID)
				}
			}
			require.NoError(t, q.Close())
		}
	})
}
