package cache

import (
	"context"
	"errors"
	"sync"
	"time"
)

// part is what one server gets of many keys.
type ringPart struct {
	keys   []string
	at     []int // where they are among the caller's
	filled []Filled
}

// FetchMany implements [RemoteMany]: one round trip to each server concerned, all at the same time, and one to the
// gutter for those that fail.
func (r *Ring) FetchMany(ctx context.Context, keys []string) ([]Fetched, error) {
	l := r.layout.Load()
	out := make([]Fetched, len(keys))
	parts := map[*ringServer]*ringPart{}
	for i, key := range keys {
		s := l.owner(l.reads, key)
		p := parts[s]
		if p == nil {
			p = &ringPart{}
			parts[s] = p
		}
		p.keys, p.at = append(p.keys, key), append(p.at, i)
	}
	var mu sync.Mutex // guards failed and fault
	var failed ringPart
	fault := ErrServerOut
	together(parts, func(s *ringServer, p *ringPart) {
		err := ErrServerOut
		if !s.out.Load() {
			var got []Fetched
			if got, err = fetchMany(ctx, s.remote, p.keys); err == nil {
				s.fails.Store(0)
				for i, g := range got {
					out[p.at[i]] = r.warmed(ctx, l, s, p.keys[i], g)
				}
				return
			}
			r.failed(ctx, s)
		}
		mu.Lock()
		defer mu.Unlock()
		failed.keys, failed.at, fault = append(failed.keys, p.keys...), append(failed.at, p.at...), err
	})
	if len(failed.keys) == 0 {
		return out, nil
	}
	var err error
	if r.gutter == nil || r.gutter.out.Load() || ctx.Err() != nil {
		err = fault
	} else {
		var got []Fetched
		if got, err = fetchMany(ctx, r.gutter.remote, failed.keys); err == nil {
			for i, g := range got {
				out[failed.at[i]] = r.gutterFetched(g)
			}
			return out, nil
		}
		r.failed(ctx, r.gutter)
	}
	for i, g := range out { // the caller will not see these leases
		if g.Lease != "" {
			_ = r.Release(context.WithoutCancel(ctx), keys[i], g.Lease)
		}
	}
	return nil, err
}

// FillMany implements [RemoteMany].
func (r *Ring) FillMany(ctx context.Context, keys []string, filled []Filled, ttl time.Duration) ([]bool, error) {
	out := make([]bool, len(keys))
	parts := map[*ringServer]*ringPart{}
	for i, f := range filled {
		s, lease := r.leased(f.Lease)
		if s == nil {
			continue
		}
		p := parts[s]
		if p == nil {
			p = &ringPart{}
			parts[s] = p
		}
		p.keys, p.at, p.filled = append(p.keys, keys[i]), append(p.at, i),
			append(p.filled, Filled{Lease: lease, Value: f.Value})
	}
	together(parts, func(s *ringServer, p *ringPart) {
		life := ttl
		if s == r.gutter {
			life = min(ttl, r.o.GutterTTL)
		}
		stored, err := fillMany(ctx, s.remote, p.keys, p.filled, life)
		if err != nil { // these are not stored; the others are
			r.failed(ctx, s)
			return
		}
		for i, ok := range stored {
			if out[p.at[i]] = ok; ok && s == r.gutter {
				r.stats.gutterFills.Add(1)
			}
		}
	})
	return out, nil
}

func together(parts map[*ringServer]*ringPart, do func(*ringServer, *ringPart)) {
	var wg sync.WaitGroup
	for s, p := range parts {
		wg.Go(func() { do(s, p) })
	}
	wg.Wait()
}

func fetchMany(ctx context.Context, r Remote, keys []string) ([]Fetched, error) {
	if many, ok := r.(RemoteMany); ok {
		return many.FetchMany(ctx, keys)
	}
	out := make([]Fetched, len(keys))
	for i, key := range keys {
		var err error
		if out[i], err = r.Fetch(ctx, key); err != nil {
			for j, got := range out[:i] { // the caller will not see these leases
				if got.Lease != "" {
					_ = r.Release(context.WithoutCancel(ctx), keys[j], got.Lease)
				}
			}
			return nil, err
		}
	}
	return out, nil
}

func fillMany(ctx context.Context, r Remote, keys []string, filled []Filled, ttl time.Duration) ([]bool, error) {
	if many, ok := r.(RemoteMany); ok {
		return many.FillMany(ctx, keys, filled, ttl)
	}
	out := make([]bool, len(keys))
	var fault error
	for i, f := range filled { // also after a fault: nobody else gives these leases back
		var err error
		if f.Value != nil {
			out[i], err = r.Fill(ctx, keys[i], f.Lease, f.Value, ttl)
		}
		if f.Value == nil || err != nil {
			err = errors.Join(err, r.Release(ctx, keys[i], f.Lease))
		}
		if fault == nil {
			fault = err
		}
	}
	return out, fault
}
