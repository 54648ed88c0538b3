// Package redisstore keeps sessions in Redis or Valkey: one hash and one round trip per operation (two for Rotate, and
// one more when a user's list is concerned). Every operation touches one key, so that it works on Redis Cluster.
package redisstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tierkit/tierkit/session"
)

// Options configure a store. The zero value is good.
type Options struct {
	// Prefix of all keys. Default "session:".
	Prefix string
}

// Store is a [session.Store] and [session.UserIndex] on Redis. It is safe for concurrent use and does not close the
// client. For sessions that must survive a failover, Redis has to be configured to wait for its replicas: a record that
// a lost primary had not passed on is gone.
type Store struct {
	client redis.UniversalClient
	prefix string
}

// New returns a store on a client. The bound of session.Options.StoreTimeout only works on a client that heeds its
// contexts: of a *redis.Client the store uses a copy that does (on the same connections); a cluster or ring client must
// have been made with ContextTimeoutEnabled.
func New(client redis.UniversalClient, o Options) (*Store, error) {
	deaf := false
	switch c := client.(type) {
	case nil:
		return nil, errors.New("redisstore: client is nil")
	case *redis.Client:
		if have := c.Options(); !have.ContextTimeoutEnabled {
			heeds := c.WithTimeout(have.ReadTimeout)
			heeds.Options().WriteTimeout = have.WriteTimeout
			heeds.Options().ContextTimeoutEnabled = true
			client = heeds
		}
	case *redis.ClusterClient:
		deaf = !c.Options().ContextTimeoutEnabled
	case *redis.Ring:
		deaf = !c.Options().ContextTimeoutEnabled
	}
	if deaf {
		return nil, errors.New("redisstore: the client's options need ContextTimeoutEnabled, or a hung server holds requests longer than StoreTimeout")
	}
	if o.Prefix == "" {
		o.Prefix = "session:"
	}
	return &Store{client, o.Prefix}, nil
}

func (s *Store) key(k session.Key) string   { return s.prefix + hex.EncodeToString(k[:]) }
func (s *Store) userKey(user string) string { return s.prefix + "user:" + user }

// Fields of a record's hash: v version, u user, c created, s seen, e expires, i idle (times in milliseconds), d data, g
// the grace key that leads here. Of a grace key's hash: a the key it leads to, e the end.
const common = `
local function deadline(e, s, i)
  e, s, i = tonumber(e), tonumber(s), tonumber(i)
  if i > 0 and s + i < e then return s + i end
  return e
end
local now = tonumber(ARGV[1])
`

var load = redis.NewScript(common + `
local r = redis.call('HMGET', KEYS[1], 'v', 'u', 'c', 's', 'e', 'i', 'd', 'a')
if r[8] then
  if tonumber(r[5]) <= now then return false end
  return {'alias', r[8]}
end
if not r[1] or deadline(r[5], r[4], r[6]) <= now then return false end
local idle = tonumber(r[6])
if idle > 0 and now - tonumber(r[4]) >= idle / 10 then
  r[4] = ARGV[1]
  redis.call('HSET', KEYS[1], 's', r[4])
  redis.call('PEXPIREAT', KEYS[1], deadline(r[5], r[4], r[6]))
end
return r
`)

// update: ARGV now, version, created, seen, expires, idle, data, listed. Returns 'ok', 'conflict', 'alias' key,
// nothing, or, if the record is to live longer than the user's list knows, 'enlist' user: nothing is changed before
// that is listed.
var update = redis.NewScript(common + `
local r = redis.call('HMGET', KEYS[1], 'v', 's', 'e', 'i', 'a', 'u')
if r[5] then
  if tonumber(r[3]) <= now then return false end
  return {'alias', r[5]}
end
if not r[1] or deadline(r[3], r[2], r[4]) <= now then return false end
if r[1] ~= ARGV[2] then return {'conflict'} end
if ARGV[8] == '0' and r[6] ~= '' and tonumber(ARGV[5]) > tonumber(r[3]) then return {'enlist', r[6]} end
local seen = ARGV[4]
if tonumber(r[2]) > tonumber(seen) then seen = r[2] end
redis.call('HSET', KEYS[1], 'v', string.format('%d', ARGV[2] + 1), 'c', ARGV[3], 's', seen, 'e', ARGV[5], 'i', ARGV[6], 'd', ARGV[7])
redis.call('PEXPIREAT', KEYS[1], deadline(ARGV[5], seen, ARGV[6]))
return {'ok'}
`)

// create: ARGV now, version, user, created, seen, expires, idle, data, grace key.
var create = redis.NewScript(common + `
local r = redis.call('HMGET', KEYS[1], 'v', 's', 'e', 'i', 'a')
if r[5] or r[1] and deadline(r[3], r[2], r[4]) > now then return {'exists'} end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'u', ARGV[3], 'c', ARGV[4], 's', ARGV[5], 'e', ARGV[6], 'i', ARGV[7], 'd', ARGV[8], 'g', ARGV[9])
redis.call('PEXPIREAT', KEYS[1], deadline(ARGV[6], ARGV[5], ARGV[7]))
return {'ok'}
`)

// retire: ARGV now, version, key that it leads to, end of grace (0: none). Returns the user and the older grace key.
var retire = redis.NewScript(common + `
local r = redis.call('HMGET', KEYS[1], 'v', 's', 'e', 'i', 'a', 'u', 'g')
if r[5] then
  if tonumber(r[3]) <= now then return false end
  return {'alias', r[5]}
end
if not r[1] or deadline(r[3], r[2], r[4]) <= now then return false end
if r[1] ~= ARGV[2] then return {'conflict'} end
redis.call('DEL', KEYS[1])
if ARGV[4] ~= '0' then
  redis.call('HSET', KEYS[1], 'a', ARGV[3], 'e', ARGV[4])
  redis.call('PEXPIREAT', KEYS[1], ARGV[4])
end
return {'ok', r[6], r[7]}
`)

var remove = redis.NewScript(`
local r = redis.call('HMGET', KEYS[1], 'a', 'u', 'g')
redis.call('DEL', KEYS[1])
return r
`)

func ms(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// ceilMS rounds up: a timeout must not become none.
func ceilMS(d time.Duration) string {
	return strconv.FormatInt(int64((min(d, math.MaxInt64-time.Millisecond)+time.Millisecond-1)/time.Millisecond), 10)
}

// maxHops bounds how many grace keys are followed: one leads to the record, and more appear only when it is rotated
// under our eyes.
const maxHops = 8

// run runs a script on the record's key, following one grace key. It returns nil when there is no record.
func (s *Store) run(ctx context.Context, sc *redis.Script, k session.Key, args ...any) (session.Key, []any, error) {
	for range maxHops {
		r, err := sc.Run(ctx, s.client, []string{s.key(k)}, args...).Slice()
		if errors.Is(err, redis.Nil) {
			return k, nil, nil
		}
		if err != nil {
			return k, nil, fmt.Errorf("redisstore: %w", err)
		}
		if r[0] != "alias" {
			return k, r, nil
		}
		if k, err = parseKey(text(r[1])); err != nil {
			return k, nil, err
		}
	}
	return k, nil, nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func parseKey(h string) (k session.Key, err error) {
	b, err := hex.DecodeString(h)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("redisstore: key %q does not parse", h)
	}
	return session.Key(b), nil
}

// Load implements [session.Store].
func (s *Store) Load(ctx context.Context, k session.Key, now time.Time) (session.Record, error) {
	k, r, err := s.run(ctx, load, k, ms(now))
	if err != nil {
		return session.Record{}, err
	}
	if r == nil {
		return session.Record{}, session.ErrNotFound
	}
	return record(k, r)
}

func record(k session.Key, r []any) (rec session.Record, err error) {
	if len(r) < 7 {
		return rec, errors.New("redisstore: record does not parse")
	}
	number := func(i int) int64 {
		n, e := strconv.ParseInt(text(r[i]), 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("redisstore: record does not parse: %w", e)
		}
		return n
	}
	rec = session.Record{Key: k, Version: uint64(number(0)), User: text(r[1]), Created: time.UnixMilli(number(2)),
		Seen:    time.UnixMilli(number(3)),
		Expires: time.UnixMilli(number(4)), Idle: time.Duration(number(5)) * time.Millisecond, Data: []byte(text(r[6]))}
	return rec, err
}

// Create implements [session.Store].
func (s *Store) Create(ctx context.Context, k session.Key, r session.Record) error {
	r.Version = 1
	if err := s.create(ctx, k, r, ""); err != nil {
		return err
	}
	return s.enlist(ctx, k, r)
}

func (s *Store) create(ctx context.Context, k session.Key, r session.Record, grace string) error {
	res, err := create.Run(ctx, s.client, []string{s.key(k)}, ms(r.Seen), r.Version, r.User, ms(r.Created), ms(r.Seen),
		ms(r.Expires), ceilMS(r.Idle), r.Data, grace).Slice()
	if err != nil {
		return fmt.Errorf("redisstore: %w", err)
	}
	if res[0] == "exists" {
		return session.ErrExists
	}
	return nil
}

// enlist adds the key to the user's list, which lives at most as long as its longest session.
func (s *Store) enlist(ctx context.Context, k session.Key, r session.Record) error {
	if r.User == "" {
		return nil
	}
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAdd(ctx, s.userKey(r.User), redis.Z{Score: float64(r.Expires.UnixMilli()), Member: hex.EncodeToString(k[:])})
		p.ZRemRangeByScore(ctx, s.userKey(r.User), "-inf", "("+ms(r.Seen))
		return nil
	})
	if err != nil {
		return fmt.Errorf("redisstore: user index: %w", err)
	}
	return nil
}

// Update implements [session.Store].
func (s *Store) Update(ctx context.Context, k session.Key, r session.Record, now time.Time) error {
	args := []any{ms(now), r.Version, ms(r.Created), ms(r.Seen), ms(r.Expires), ceilMS(r.Idle), r.Data, "0"}
	actual, res, err := s.run(ctx, update, k, args...)
	// else it would leave the list before it ends, and could not be revoked
	if err == nil && res != nil && res[0] == "enlist" {
		r.User = text(res[1])
		if err := s.enlist(ctx, actual, r); err != nil {
			return err
		}
		args[len(args)-1] = "1"
		_, res, err = s.run(ctx, update, actual, args...)
	}
	return outcome(res, err)
}

func outcome(res []any, err error) error {
	switch {
	case err != nil:
		return err
	case res == nil:
		return session.ErrNotFound
	case res[0] == "conflict":
		return session.ErrConflict
	}
	return nil
}

// Rotate implements [session.Store]. The new record is written first, under a key that nobody knows yet, and entered in
// the user's list, so that it can be revoked; then the old one is exchanged for the grace key if its version still
// matches; if it does not, the new record is taken back. A crash or a lost answer in between leaves a record that only
// the grace key, if any, leads to, until it expires.
func (s *Store) Rotate(ctx context.Context, k, next session.Key, r session.Record, now time.Time,
	grace time.Duration) error {
	actual := k
	if a, err := s.client.HGet(ctx, s.key(k), "a").Result(); err == nil {
		if actual, err = parseKey(a); err != nil {
			return err
		}
	} else if !errors.Is(err, redis.Nil) {
		return fmt.Errorf("redisstore: %w", err)
	}
	n, old := r, ""
	n.Version++
	end := "0"
	if grace > 0 {
		end, old = ms(now.Add(grace)), hex.EncodeToString(actual[:])
	}
	if err := s.create(ctx, next, n, old); err != nil {
		return err
	}
	if err := s.enlist(ctx, next, n); err != nil {
		return err
	}
	_, res, err := s.run(ctx, retire, actual, ms(now), r.Version, hex.EncodeToString(next[:]), end)
	if err != nil { // perhaps it was done
		return err
	}
	if err := outcome(res, nil); err != nil {
		cctx := context.WithoutCancel(ctx)
		if derr := s.client.Del(cctx, s.key(next)).Err(); derr != nil {
			return errors.Join(err, derr)
		}
		s.delist(cctx, next, n.User)
		return err
	}
	if older := text(res[2]); older != "" {
		// it leads to a record that is gone or to another grace key: harmless if it stays
		s.client.Del(ctx, s.prefix+older)
	}
	s.delist(ctx, actual, text(res[1]))
	return nil
}

// delist takes a key off the user's list; ListUser repairs what is missed here.
func (s *Store) delist(ctx context.Context, k session.Key, user string) {
	if user != "" {
		s.client.ZRem(ctx, s.userKey(user), hex.EncodeToString(k[:]))
	}
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, k session.Key) error {
	for range maxHops {
		r, err := remove.Run(ctx, s.client, []string{s.key(k)}).Slice()
		if err != nil {
			return fmt.Errorf("redisstore: %w", err)
		}
		if g := text(r[2]); g != "" {
			if err := s.client.Del(ctx, s.prefix+g).Err(); err != nil {
				return fmt.Errorf("redisstore: %w", err)
			}
		}
		s.delist(ctx, k, text(r[1]))
		a := text(r[0])
		if a == "" {
			return nil
		}
		if k, err = parseKey(a); err != nil {
			return err
		}
	}
	return nil
}

// ListUser implements [session.UserIndex]. It also removes from the list what has ended.
func (s *Store) ListUser(ctx context.Context, user string, now time.Time) ([]session.Listed, error) {
	members, err := s.client.ZRange(ctx, s.userKey(user), 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("redisstore: user index: %w", err)
	}
	var keys []session.Key
	var cmds []*redis.SliceCmd
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, m := range members {
			if k, err := parseKey(m); err == nil {
				keys = append(keys, k)
				cmds = append(cmds, p.HMGet(ctx, s.key(k), "v", "u", "c", "s", "e", "i", "d"))
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("redisstore: %w", err)
	}
	var ls []session.Listed
	for i, c := range cmds {
		v, err := c.Result()
		if err != nil {
			return nil, fmt.Errorf("redisstore: %w", err)
		}
		r, perr := session.Record{}, error(nil)
		if v[0] != nil {
			r, perr = record(keys[i], v)
		}
		if v[0] == nil || perr != nil || r.User != user {
			s.client.ZRem(ctx, s.userKey(user), hex.EncodeToString(keys[i][:]))
			continue
		}
		// by this server's clock: where it is late, the session may be used once more, and go on
		if !r.Deadline().After(now) {
			continue
		}
		ls = append(ls, session.Listed{Key: keys[i], Record: r})
	}
	slices.SortFunc(ls, func(a, b session.Listed) int { return b.Record.Created.Compare(a.Record.Created) })
	return ls, nil
}

// DeleteUser implements [session.UserIndex].
func (s *Store) DeleteUser(ctx context.Context, user string, keep session.Key) (int, error) {
	ls, err := s.ListUser(ctx, user, time.Now())
	if err != nil {
		return 0, err
	}
	n := 0
	for _, l := range ls {
		if l.Key == keep {
			continue
		}
		if err := s.Delete(ctx, l.Key); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
