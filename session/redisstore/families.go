package redisstore

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/session/token"
)

// Families is a [token.FamilyStore] on Redis: one hash per login, one round trip per operation. All servers that use
// the same Redis see the same families. It is safe for concurrent use and does not close the client.
type Families struct {
	client redis.UniversalClient
	prefix string
}

// NewFamilies returns a store of refresh families on a client, which has to meet the same condition as that of [New].
// Keys begin with Options.Prefix and "family:".
func NewFamilies(client redis.UniversalClient, o Options) (*Families, error) {
	s, err := New(client, o)
	if err != nil {
		return nil, err
	}
	return &Families{s.client, s.prefix + "family:"}, nil
}

// Fields of a family's hash: v its version, d the family as JSON.
var (
	createFamily = redis.NewScript(`
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'd', ARGV[2])
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return 1`)

	// updateFamily compares and swaps: of two servers that exchange the same token at once, one gets 0. It returns -1
	// for a family that is gone.
	updateFamily = redis.NewScript(`
local v = redis.call('HGET', KEYS[1], 'v')
if not v then return -1 end
if v ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'd', ARGV[3])
redis.call('PEXPIREAT', KEYS[1], ARGV[4])
return 1`)
)

// Create implements [token.FamilyStore].
func (s *Families) Create(ctx context.Context, id string, f token.Family) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return createFamily.Run(ctx, s.client, []string{s.prefix + id}, f.Version, data, f.Expires.UnixMilli()).Err()
}

// Load implements [token.FamilyStore].
func (s *Families) Load(ctx context.Context, id string) (f token.Family, err error) {
	fields, err := s.client.HMGet(ctx, s.prefix+id, "v", "d").Result()
	if err != nil {
		return f, err
	}
	version, ok1 := fields[0].(string)
	data, ok2 := fields[1].(string)
	if !ok1 || !ok2 {
		return f, token.ErrRevoked
	}
	if err := json.Unmarshal([]byte(data), &f); err != nil {
		return f, fmt.Errorf("redisstore: family %s: %w", id, err)
	}
	if f.Version, err = strconv.ParseUint(version, 10, 64); err != nil {
		return f, fmt.Errorf("redisstore: family %s: version %q", id, version)
	}
	if !time.Now().Before(f.Expires) { // the server's clock is late
		return token.Family{}, token.ErrRevoked
	}
	return f, nil
}

// Update implements [token.FamilyStore].
func (s *Families) Update(ctx context.Context, id string, f token.Family) (bool, error) {
	data, err := json.Marshal(f)
	if err != nil {
		return false, err
	}
	n, err := updateFamily.Run(ctx, s.client, []string{s.prefix + id}, f.Version, f.Version+1, data,
		f.Expires.UnixMilli()).Int()
	switch {
	case err != nil:
		return false, err
	case n < 0:
		return false, token.ErrRevoked
	}
	return n == 1, nil
}

// Delete implements [token.FamilyStore].
func (s *Families) Delete(ctx context.Context, id string) error {
	return s.client.Del(ctx, s.prefix+id).Err()
}
