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
	Set(ctx context.Context, key string, value []byte) error
}

// Sketches is what Sync exchanges: Uniques and Retention.
type Sketches interface {
	// Names are those that may exist at a time.
	Names(now time.Time) []string
	Export() map[string][]byte
	Import(map[string][]byte) error
}

// Sync merges the sketches with those that a store has under the prefix, and stores what is new: after all nodes have
// called it, and each once more, all have the same, and so has a node that starts again. Call it at the start, every
// minute, and before the process ends.
//
// Two nodes that write at the same moment may overwrite one another; since each brings all it knows every time, the
// next call mends that. A value that is not a sketch is an error, and is not overwritten.
func Sync(ctx context.Context, kv KV, prefix string, s Sketches) error {
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
	for name, b := range s.Export() {
		if bytes.Equal(b, stored[name]) {
			continue
		}
		if err := kv.Set(ctx, prefix+name, b); err != nil {
			return fmt.Errorf("audience: writing %s: %w", prefix+name, err)
		}
	}
	return nil
}
