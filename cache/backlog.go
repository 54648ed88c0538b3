package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tierkit/tierkit/internal/journal"
)

// Errors of a write-back journal, wrapped with their cause.
var (
	// ErrJournalLocked: another process has the journal's directory open.
	ErrJournalLocked = journal.ErrLocked
	// ErrJournalFull: there is no room for the write, with the cause, such as ENOSPC. It was not stored, and nothing
	// was lost; there is room again when the store has taken earlier writes.
	ErrJournalFull = journal.ErrNoRoom
	// ErrJournalFailed: the disk has failed. Whether the write is stored is not known, and the Back takes no more until
	// it is opened again; what it holds still goes to the store.
	ErrJournalFailed = journal.ErrFailed
	// ErrJournalCorrupt: what was once durable is damaged.
	ErrJournalCorrupt = journal.ErrCorrupt
	// ErrTooLarge: key and value are larger than a quarter of a segment of the journal.
	ErrTooLarge = journal.ErrTooLarge
)

// Journal makes the writes of a [Back] durable before they are acknowledged: see [OpenBack].
type Journal[K comparable, V any] struct {
	// Dir holds the files. It is made if need be, and belongs to one process at a time. Required.
	Dir string
	// Key and Value turn keys and values into bytes. Default JSON.
	Key   Codec[K]
	Value Codec[V]
	// SegmentBytes is the size of a file. Default 8 MiB, at least 64 KiB, at most 1 GiB. The journal takes about twice
	// what is pending and parked, and five files more at most.
	SegmentBytes int64
}

// OpenBack is [NewBack] with a journal: a write is acknowledged when it is on disk, and one that the store does not
// have when the process dies, be it by kill -9 or a loss of power, is pending again at the next open, as is each parked
// key parked. The writes of many callers share one fdatasync.
//
// The store gets every acknowledged write, or a newer one of its key, at least once, and those of a key in order. One
// that it has may be repeated after a crash, also when somebody else has written the key meanwhile: the store's writes
// must be idempotent, and belong to this Back. A write whose Set returned an error other than [ErrJournalFull] and
// [ErrTooLarge] may have been stored or not.
func OpenBack[K comparable, V any](c *Cache[K, V], s Store[K, V], o BackOptions, j Journal[K, V]) (*Back[K, V], error) {
	if j.Dir == "" {
		return nil, errors.New("cache: Journal.Dir is empty")
	}
	b, err := newBack(c, s, o)
	if err != nil {
		return nil, err
	}
	l := &backLog[K, V]{key: j.Key, value: j.Value}
	if l.key == nil {
		l.key = JSON[K]{}
	}
	if l.value == nil {
		l.value = JSON[V]{}
	}
	type held struct {
		write *pendingWrite[V]
		note  []byte
	}
	kept := map[K]held{}
	var superseded []uint64
	l.journal, err = journal.Open(j.Dir, journal.Options{SegmentBytes: j.SegmentBytes},
		func(entry uint64, payload, note []byte) error {
			k, v, deleted, err := l.decode(payload)
			if err != nil {
				return err
			}
			if older, ok := kept[k]; ok {
				superseded = append(superseded, older.write.entry)
			}
			kept[k] = held{&pendingWrite[V]{value: v, deleted: deleted, version: 1, entry: entry}, note}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("cache: write-back: %w", err)
	}
	b.log = l
	l.replayed = int64(len(kept))
	b.mu.Lock()
	for _, entry := range superseded {
		l.journal.Settle(entry)
	}
	for k, h := range kept {
		if h.note != nil {
			h.write.err = errors.New(string(h.note))
			b.parked[k] = h.write
			continue
		}
		b.epoch++
		h.write.epoch = b.epoch
		b.pending[k] = h.write
		b.schedule(k, h.write, 0)
	}
	b.mu.Unlock()
	b.start()
	return b, nil
}

// backLog is the journal of a Back.
type backLog[K comparable, V any] struct {
	journal  *journal.Journal
	key      Codec[K]
	value    Codec[V]
	replayed int64
}

const (
	logSet = iota
	logDelete
)

// encode: what is done, the key's length and the key, the value.
func (l *backLog[K, V]) encode(k K, v V, deleted bool) ([]byte, error) {
	key, err := l.key.Encode(k)
	if err != nil {
		return nil, fmt.Errorf("cache: encode key: %w", err)
	}
	var value []byte
	op := byte(logDelete)
	if !deleted {
		op = logSet
		if value, err = l.value.Encode(v); err != nil {
			return nil, fmt.Errorf("cache: encode value: %w", err)
		}
	}
	buf := make([]byte, 0, 1+binary.MaxVarintLen32+len(key)+len(value))
	buf = binary.AppendUvarint(append(buf, op), uint64(len(key)))
	return append(append(buf, key...), value...), nil
}

func (l *backLog[K, V]) decode(b []byte) (k K, v V, deleted bool, err error) {
	if len(b) == 0 || b[0] > logDelete {
		return k, v, false, errors.New("not a write")
	}
	deleted = b[0] == logDelete
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || n > uint64(len(b)-1-size) {
		return k, v, false, errors.New("not a write")
	}
	key, value := b[1+size:1+size+int(n)], b[1+size+int(n):]
	if k, err = l.key.Decode(key); err != nil {
		return k, v, false, fmt.Errorf("key: %w", err)
	}
	if !deleted {
		if v, err = l.value.Decode(value); err != nil {
			err = fmt.Errorf("value of %v: %w", k, err)
		}
	}
	return k, v, deleted, err
}

// write returns when the write is durable and visible. A caller that gives up meanwhile does not take it back. It is
// one of b.coming.
func (l *backLog[K, V]) write(ctx context.Context, b *Back[K, V], k K, v V, deleted bool) error {
	payload, err := l.encode(k, v, deleted)
	if err != nil {
		b.came()
		return err
	}
	err = l.journal.Append(ctx, payload, func(entry uint64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.accept(k, v, deleted, entry)
	})
	b.came()
	if err != nil {
		return fmt.Errorf("cache: write-back: %w", err)
	}
	return nil
}

func (b *Back[K, V]) came() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.coming--
	if b.refuses || len(b.pending)+b.coming >= b.o.MaxPending-1 {
		b.changed.Broadcast()
	}
}
