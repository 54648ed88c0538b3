package stack

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/session/token"
)

// families keeps refresh tokens' families where the sessions are, so that every server of both centres sees them.
type families struct{ c *redis.Client }

func (f *families) Create(ctx context.Context, id string, fam token.Family) error {
	fam.Version = 1
	b, err := json.Marshal(fam)
	if err != nil {
		return err
	}
	return f.c.Set(ctx, "family:"+id, b, time.Until(fam.Expires)).Err()
}

func (f *families) Load(ctx context.Context, id string) (fam token.Family, err error) {
	b, err := f.c.Get(ctx, "family:"+id).Bytes()
	if errors.Is(err, redis.Nil) {
		return fam, token.ErrRevoked
	}
	if err != nil {
		return fam, err
	}
	return fam, json.Unmarshal(b, &fam)
}

// Update swaps under WATCH: of two servers that exchange the same token at once, one is told to look again.
func (f *families) Update(ctx context.Context, id string, fam token.Family) (bool, error) {
	key, done := "family:"+id, false
	err := f.c.Watch(ctx, func(tx *redis.Tx) error {
		b, err := tx.Get(ctx, key).Bytes()
		if errors.Is(err, redis.Nil) {
			return token.ErrRevoked
		}
		if err != nil {
			return err
		}
		var old token.Family
		if err := json.Unmarshal(b, &old); err != nil || old.Version != fam.Version {
			return err
		}
		fam.Version++
		if b, err = json.Marshal(fam); err != nil {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, key, b, time.Until(fam.Expires))
			return nil
		})
		done = err == nil
		return err
	}, key)
	if errors.Is(err, redis.TxFailedErr) {
		return false, nil
	}
	return done, err
}

func (f *families) Delete(ctx context.Context, id string) error {
	return f.c.Del(ctx, "family:"+id).Err()
}
