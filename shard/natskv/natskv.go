// Package natskv keeps the map of package shard in a NATS JetStream key-value bucket: as one key, swapped by its
// revision, and watched, so that processes learn of a change within milliseconds.
package natskv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tierkit/tierkit/shard"
)

// Options configure the store. The zero value is good.
type Options struct {
	// Bucket is the name of the key-value bucket, which is made if it does not exist. Default "tierkit_shard".
	Bucket string
	// Key of the map in it. Default "map".
	Key string
	// Replicas of the bucket. Default 1. With more of them see Store.Staleness.
	Replicas int
}

// Store is a shard.MapStore. Safe for concurrent use.
type Store struct {
	nc     *nats.Conn
	kv     jetstream.KeyValue
	stream jetstream.Stream
	o      Options
}

var (
	_ shard.MapStore = (*Store)(nil)
	_ shard.Watcher  = (*Store)(nil)
	_ shard.Stale    = (*Store)(nil)
)

// Open makes the bucket if need be. It does not close the connection.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Store, error) {
	if o.Bucket == "" {
		o.Bucket = "tierkit_shard"
	}
	if o.Key == "" {
		o.Key = "map"
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Replicas < 1 || o.Replicas > 5 {
		return nil, fmt.Errorf("natskv: Options.Replicas is %d, must be 1 to 5", o.Replicas)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("natskv: %w", err)
	}
	kv, err := js.KeyValue(ctx, o.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: o.Bucket, Replicas: o.Replicas,
			Storage: jetstream.FileStorage})
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = js.KeyValue(ctx, o.Bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("natskv: Options.Bucket %q: %w", o.Bucket, err)
	}
	stream, err := js.Stream(ctx, "KV_"+o.Bucket)
	if err != nil {
		return nil, fmt.Errorf("natskv: Options.Bucket %q: %w", o.Bucket, err)
	}
	// Buckets let any replica answer a read; a map that is confirmed by a replica which lags is not confirmed.
	info := stream.CachedInfo().Config
	o.Replicas = max(info.Replicas, 1)
	if info.AllowDirect {
		info.AllowDirect = false
		if stream, err = js.UpdateStream(ctx, info); err != nil {
			return nil, fmt.Errorf("natskv: Options.Bucket %q: let only the leader answer: %w", o.Bucket, err)
		}
	}
	return &Store{nc: nc, kv: kv, stream: stream, o: o}, nil
}

// Staleness of reads. One server knows every change. Of several the leader answers, and one that was cut off from the
// others takes up to 10 s to notice that it is leader no more (nats-server, lostQuorumInterval); so
// shard.Options.MapTTL must be longer than 11 s then.
func (s *Store) Staleness() time.Duration {
	if s.o.Replicas > 1 {
		return 11 * time.Second
	}
	return 0
}

// get returns the state and its revision, 0 when there is none.
func (s *Store) get(ctx context.Context) (*shard.State, uint64, error) {
	msg, err := s.stream.GetLastMsgForSubject(ctx, "$KV."+s.o.Bucket+"."+s.o.Key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("natskv: load: %w", err)
	}
	st := new(shard.State)
	if err := json.Unmarshal(msg.Data, st); err != nil {
		return nil, 0, fmt.Errorf("natskv: load: %w", err)
	}
	return st, msg.Sequence, nil
}

// Load implements shard.MapStore.
func (s *Store) Load(ctx context.Context) (*shard.State, error) {
	st, _, err := s.get(ctx)
	if err == nil && st == nil {
		err = shard.ErrNoMap
	}
	return st, err
}

// CompareAndSwap implements shard.MapStore. An error other than ErrConflict leaves open whether it was stored.
func (s *Store) CompareAndSwap(ctx context.Context, old uint64, next *shard.State) error {
	b, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("natskv: %w", err)
	}
	st, rev, err := s.get(ctx)
	if err != nil {
		return err
	}
	have := uint64(0)
	if st != nil {
		have = st.Epoch()
	}
	if have != old {
		return shard.ErrConflict
	}
	if st == nil {
		_, err = s.kv.Create(ctx, s.o.Key, b)
	} else {
		_, err = s.kv.Update(ctx, s.o.Key, b, rev)
	}
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyExists), errors.As(err, &api) &&
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return shard.ErrConflict
	}
	return fmt.Errorf("natskv: store: %w", err)
}

// Watch implements shard.Watcher. It ends when the connection was lost, as the server may have forgotten it, and tells
// of a change when it begins, as it may have missed some.
func (s *Store) Watch(ctx context.Context, changed func()) error {
	w, err := s.kv.Watch(ctx, s.o.Key, jetstream.UpdatesOnly(), jetstream.MetaOnly())
	if err != nil {
		return fmt.Errorf("natskv: watch: %w", err)
	}
	defer w.Stop()
	changed()
	reconnects := s.nc.Stats().Reconnects
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			if s.nc.Stats().Reconnects != reconnects {
				return errors.New("natskv: the connection was lost")
			}
		case e, ok := <-w.Updates():
			if !ok {
				return errors.New("natskv: the watch ended")
			}
			if e != nil {
				changed()
			}
		}
	}
}
