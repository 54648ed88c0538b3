package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

// A snapshot of a queue that is being published to, consumed and cleaned: what was acknowledged before it is in it,
// what was settled before it does not come back.
func TestSnapshotOfALiveQueue(t *testing.T) {
	o := queue.Options{SegmentBytes: small}
	q := open(t, t.TempDir(), o)
	g := group(t, q, queue.GroupOptions{MaxDeliveries: -1})
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	published, acking, acked := map[string]bool{}, map[string]bool{}, map[string]bool{}
	var wg sync.WaitGroup
	for p := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%d-%d", p, i)
				if _, err := q.Publish(context.Background(),
					queue.Message{Topic: "t", ID: id, Key: []string{"", "a", "b"}[i%3],
						Body: make([]byte, 500)}); err != nil {
					t.Error(err)
				}
				mu.Lock()
				published[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			ds, _ := g.Fetch(ctx, 20)
			for i, d := range ds {
				if i%10 == 9 { // a tenth stays, so that the cleaner has something to copy
					continue
				}
				mu.Lock()
				acking[d.ID] = true
				mu.Unlock()
				if err := d.Ack(context.Background()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				acked[d.ID] = true
				mu.Unlock()
			}
		}
	})
	for round := range 3 {
		mu.Lock()
		goal := len(published) + 400
		mu.Unlock()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(published) > goal
		}, 30*time.Second, time.Millisecond)
		must, never := map[string]bool{}, map[string]bool{}
		mu.Lock()
		for id := range published {
			must[id] = true
		}
		for id := range acked {
			never[id] = true
		}
		mu.Unlock()
		var b bytes.Buffer
		require.NoError(t, q.Snapshot(t.Context(), &b))
		mu.Lock()
		for id := range acking { // settled, or about to be, before or after the snapshot's moment
			must[id] = false
		}
		mu.Unlock()
		dir := filepath.Join(t.TempDir(), "restored")
		require.NoError(t, queue.Restore(&b, dir))
		r := open(t, dir, o)
		rg := group(t, r, queue.GroupOptions{MaxDeliveries: -1})
		got := map[string]bool{}
		for {
			l, err := rg.Lag(t.Context())
			require.NoError(t, err)
			if l.Ready == 0 {
				require.Zero(t, l.Delayed)
				break
			}
			ds, err := rg.Fetch(t.Context(), 1000)
			require.NoError(t, err)
			for _, d := range ds {
				require.False(t, got[d.ID], "twice: %s", d.ID)
				require.False(t, never[d.ID], "settled before the snapshot: %s", d.ID)
				got[d.ID] = true
			}
			require.NoError(t, rg.Ack(t.Context(), ds...))
		}
		for id, m := range must {
			require.True(t, !m || got[id], "round %d lost %s", round, id)
		}
		dup, err := r.Publish(t.Context(), queue.Message{Topic: "t", ID: "0-0"})
		require.NoError(t, err)
		require.True(t, dup.Duplicate, "ids are remembered")
		require.NoError(t, r.Close())
	}
	cancel()
	wg.Wait()
}

func TestRestoreVerifies(t *testing.T) {
	q := open(t, t.TempDir(), queue.Options{SegmentBytes: small})
	group(t, q, queue.GroupOptions{})
	for i := range 50 {
		_, err := q.Publish(t.Context(), queue.Message{Topic: "t", Body: fmt.Append(nil, "message ", i)})
		require.NoError(t, err)
	}
	var b bytes.Buffer
	require.NoError(t, q.Snapshot(t.Context(), &b))
	whole := b.Bytes()
	root := t.TempDir()
	n := 0
	restore := func(snapshot []byte) (string, error) {
		n++
		dir := filepath.Join(root, fmt.Sprint(n))
		return dir, queue.Restore(bytes.NewReader(snapshot), dir)
	}
	dir, err := restore(whole)
	require.NoError(t, err)
	require.ErrorContains(t, queue.Restore(bytes.NewReader(whole), dir), "not empty")
	for _, cut := range []int{0, 100, len(whole) / 2, len(whole) - 1500} {
		dir, err := restore(whole[:cut])
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d", cut)
		left, _ := os.ReadDir(dir)
		require.Empty(t, left)
	}
	flipped := bytes.Clone(whole)
	flipped[bytes.Index(flipped, []byte("message 7"))] ^= 1
	_, err = restore(flipped)
	require.ErrorIs(t, err, queue.ErrCorrupt)
	_, err = restore(make([]byte, 4096))
	require.Error(t, err)
	evil := bytes.ReplaceAll(whole, []byte("00000001-"), []byte("../../01-"))
	_, err = restore(evil)
	require.ErrorContains(t, err, "not a segment")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, q.Snapshot(ctx, io.Discard), context.Canceled)
	require.NoError(t, q.Close())
	require.ErrorIs(t, q.Snapshot(t.Context(), io.Discard), queue.ErrClosed)
}

// Two million messages wait in a queue that stays usable: 100 MB of heap at most, whether they have keys or not.
func TestLongBacklogTakesLittleMemory(t *testing.T) {
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	for name, keys := range map[string]int{"no keys": 0, "50,000 keys": 50_000} {
		t.Run(name, func(t *testing.T) {
			q, err := queue.Open(t.TempDir(), queue.Options{UnsafeNoSync: true, DedupeWindow: -1})
			require.NoError(t, err)
			defer q.Close()
			g := group(t, q, queue.GroupOptions{})
			before := heap()
			const n = 2_000_000
			batch := make([]queue.Message, 2000)
			for i := 0; i < n; i += len(batch) {
				for k := range batch {
					if batch[k] = (queue.Message{Topic: "t", Body: []byte("0123456789abcdef")}); keys > 0 {
						batch[k].Key = fmt.Sprint("user-", (i+k)%keys)
					}
				}
				_, err := q.PublishBatch(t.Context(), batch)
				require.NoError(t, err)
			}
			used := heap() - before
			t.Logf("%.0f MB of heap for %d messages", used, n)
			require.Less(t, used, 100.0)
			ds, err := g.Fetch(t.Context(), 100)
			require.NoError(t, err)
			require.NoError(t, g.Ack(t.Context(), ds...))
		})
	}
}
