package journal

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// memory is a disk whose power can be cut: what was not synced is then there in part, sector by sector, and names that
// were not synced are as they were some steps ago.
type memory struct {
	mu    sync.Mutex
	names map[string]*memoryFile
	steps []map[string]*memoryFile // names since the last SyncDir, oldest first
}

type memoryFile struct {
	disk    *memory
	data    []byte
	durable []byte
}

const sector = 512

func newMemory() *memory { return &memory{names: map[string]*memoryFile{}} }

// note keeps the names as they were before a change; mu is held.
func (m *memory) note() { m.steps = append(m.steps, maps.Clone(m.names)) }

func (m *memory) Create(name string) (diskfile.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] != nil {
		return nil, fs.ErrExist
	}
	m.note()
	m.names[name] = &memoryFile{disk: m}
	return m.names[name], nil
}

func (m *memory) Open(name string) (diskfile.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == nil {
		return nil, fs.ErrNotExist
	}
	return m.names[name], nil
}

func (m *memory) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[from] == nil {
		return fs.ErrNotExist
	}
	m.note()
	m.names[to] = m.names[from]
	delete(m.names, from)
	return nil
}

func (m *memory) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == nil {
		return fs.ErrNotExist
	}
	m.note()
	delete(m.names, name)
	return nil
}

func (m *memory) List() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.names)), nil
}

func (m *memory) SyncDir() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps = nil
	return nil
}

// cut returns the disk as it is found when the power is back.
func (m *memory) cut(r *rand.Rand) *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := m.names
	if n := len(m.steps); n > 0 {
		if i := r.IntN(n + 1); i < n {
			names = m.steps[i]
		}
	}
	after := newMemory()
	for name, f := range names {
		data := make([]byte, max(len(f.data), len(f.durable)))
		copy(data, f.durable)
		for at := 0; at < len(f.data); at += sector {
			if end := min(at+sector, len(f.data)); r.IntN(2) == 0 {
				copy(data[at:end], f.data[at:end])
			}
		}
		after.names[name] = &memoryFile{disk: after, data: data, durable: slices.Clone(data)}
	}
	return after
}

func (f *memoryFile) ReadAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if at >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) WriteAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if grow := int(at) + len(b) - len(f.data); grow > 0 {
		f.data = append(f.data, make([]byte, grow)...)
	}
	return copy(f.data[at:], b), nil
}

func (f *memoryFile) Datasync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.durable = append(f.durable[:0], f.data...)
	return nil
}

func (f *memoryFile) Sync() error { return f.Datasync() }

func (f *memoryFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.data)), nil
}

func (f *memoryFile) Close() error { return nil }

// TestPowerCut cuts the power under load, again and again. Entries belong to keys, and one is settled when a newer one
// of its key is durable, or when a store has it. What was acknowledged is there or was settled, and no key is ever
// found at an older entry than the store has.
func TestPowerCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	disk := newMemory()
	const keys = 12
	var acked, stored [keys]int // versions
	moved := int64(0)
	for round := range 60 {
		var found [keys]int
		var newest [keys]uint64
		var superseded []uint64
		j, err := open(t.TempDir(), Options{SegmentBytes: tiny}, disk, func(seq uint64, payload, _ []byte) error {
			var k, v int
			if _, err := fmt.Sscanf(string(payload), "%d %d", &k, &v); err != nil {
				return err
			}
			if newest[k] != 0 {
				superseded = append(superseded, newest[k])
			}
			found[k], newest[k] = v, seq
			return nil
		})
		require.NoError(t, err, "round %d", round)
		for _, seq := range superseded {
			j.Settle(seq)
		}
		for k := range keys {
			if newest[k] != 0 {
				require.GreaterOrEqual(t, found[k], stored[k], "key %d would go back", k)
			}
			require.GreaterOrEqual(t, max(found[k], stored[k]), acked[k], "key %d: lost", k)
			acked[k] = max(found[k], acked[k]) // one that was not acknowledged may be there
		}
		// Every fourth key is written once in a round and never stored, so that some entries stay and are moved.
		var mu sync.Mutex // guards acked, stored and newest
		var after *memory
		var wg sync.WaitGroup
		left := 40 + r.IntN(400)
		for w := range keys {
			wr := rand.New(rand.NewPCG(seed, uint64(round*keys+w+1)))
			wg.Go(func() {
				for {
					mu.Lock()
					v := acked[w] + 1
					stop := after != nil
					mu.Unlock()
					if stop {
						return
					}
					var seq uint64
					payload := fmt.Appendf(nil, "%d %d %s", w, v, make([]byte, wr.IntN(1500)))
					err := j.Append(context.Background(), payload, func(n uint64) {
						seq = n
						mu.Lock()
						old := newest[w]
						newest[w] = n
						mu.Unlock()
						j.Settle(old)
					})
					mu.Lock()
					switch {
					case after != nil: // the power is gone: what is acknowledged now is nobody's
						mu.Unlock()
						return
					case err != nil:
						mu.Unlock()
						t.Error(err)
						return
					}
					acked[w] = v
					store := w%4 != 0 && wr.IntN(2) == 0
					if store {
						stored[w] = v
					}
					if left--; left == 0 {
						after = disk.cut(r)
					}
					mu.Unlock()
					if store {
						j.Settle(seq)
					}
					if w%4 == 0 {
						return
					}
				}
			})
		}
		wg.Wait()
		moved += j.Stats().Moved
		require.NoError(t, j.Close())
		if after == nil {
			after = disk // a clean end
		}
		disk = after
	}
	t.Logf("%d entries moved", moved)
	require.Positive(t, moved)
}
