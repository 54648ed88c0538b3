package audience

import (
	"bytes"
	"context"
	"fmt"
	"time"
)

// KV is as much of a key-value store as sketches need: Redis, a database's table, a directory.
type KV interface {
	// Get returns nil for a key that is not there.
	Get(ctx context.Context, key string) ([]byte, error)
	// CompareAndSwap replaces the value of a key if it is old still, and reports whether it was: in one step, so that
	// of two callers with the same old value one fails. A nil old stands for a key that is not there.
	CompareAndSwap(ctx context.Context, key string, old, value []byte) (swapped bool, err error)
}

// Sketches is what Sync exchanges: Uniques and Retention.
type Sketches interface {
	// Names are those that may exist at a time.
	Names(now time.Time) []string
	Export() map[string][]byte
	Import(map[string][]byte) error
}

// maxSwaps bounds how often Sync tries to store one sketch while other nodes store theirs.
const maxSwaps = 20

// Sync merges the sketches with those that a store has under the prefix, and stores the union: whatever a node has
// counted before its call is in the store after it, in whichever order and how often nodes call, also at the same
// moment. Call it at the start, every minute, and before the process ends.
//
// A value that is not a sketch is an error, and is not overwritten.
func Sync(ctx context.Context, kv KV, prefix string, s Sketches) error {
	for range maxSwaps {
		stored := map[string][]byte{}
		for _, name := range s.Names(time.Now()) {
			b, err := kv.Get(ctx, prefix+name)
			if err != nil {
				return fmt.Errorf("audience: reading %s: %w", prefix+name, err)
			}
			if b != nil {
				stored[name] = b
			}
		}
		if err := s.Import(stored); err != nil {
			return err
		}
		all := true
		for name, b := range s.Export() {
			if bytes.Equal(b, stored[name]) {
				continue
			}
			swapped, err := kv.CompareAndSwap(ctx, prefix+name, stored[name], b)
			if err != nil {
				return fmt.Errorf("audience: writing %s: %w", prefix+name, err)
			}
			all = all && swapped
		}
		if all {
			return nil
		}
	}
	return fmt.Errorf("audience: writing %s: other nodes wrote at the same time, %d times", prefix, maxSwaps)
}
