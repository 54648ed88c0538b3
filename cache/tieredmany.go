package cache

import (
	"context"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// LoadMany returns the entries of the keys from the nearest tiers that have them: all that the first tier lacks with
// one round trip to the second (when that is a RemoteMany), and all that both lack with one call of load. Keys that
// load does not return are not found, and missing in the result. An error means that the result is incomplete.
func (t *Tiered[K, V]) LoadMany(ctx context.Context, keys []K,
	load func(context.Context, []K) (map[K]V, error)) (map[K]V, error) {
	fetch := func(ctx context.Context, missing []K) (map[K]V, error) {
		limits, _ := ctx.Value(limitKey{}).(map[K]*limit)
		if limits == nil { // nothing is stored
			limits = make(map[K]*limit, len(missing))
			for _, k := range missing {
				limits[k] = &limit{}
			}
		}
		return t.fetchMany(ctx, missing, limits, load)
	}
	if t.l2.Trusted() {
		asked := 0
		got, err := t.l1.LoadMany(ctx, keys, func(ctx context.Context, missing []K) (map[K]V, error) {
			asked = len(missing)
			return fetch(ctx, missing)
		})
		if ctx.Err() != nil {
			return got, err
		}
		if t.l2.Trusted() || asked == len(keys) {
			t.stats.l1.Add(int64(max(0, len(got)-asked)))
			return got, err
		}
	}
	t.stats.untrusted.Add(int64(len(keys)))
	unique := make([]K, 0, len(keys))
	seen := make(map[K]bool, len(keys))
	for _, k := range keys {
		if !seen[k] {
			seen[k] = true
			unique = append(unique, k)
		}
	}
	return fetch(ctx, unique)
}

func (t *Tiered[K, V]) fetchMany(ctx context.Context, keys []K, limits map[K]*limit,
	load func(context.Context, []K) (map[K]V, error)) (map[K]V, error) {
	got := make(map[K]V, len(keys))
	var alone []K // loaded without storing
	end := time.Now().Add(t.o.WaitFor)
	for attempt := 0; len(keys) > 0; attempt++ {
		names := make([]string, len(keys))
		for i, k := range keys {
			names[i] = t.o.Key(k)
		}
		found, err := fetchMany(ctx, t.l2, names)
		if err != nil || len(found) != len(keys) {
			t.stats.errors.Add(1)
			alone = append(alone, keys...)
			break
		}
		var leased, waiting []K
		var leasedNames []string
		var filled []Filled
		for i, f := range found {
			k := keys[i]
			switch {
			case f.Value != nil:
				v, err := t.o.Codec.Decode(f.Value)
				if err != nil { // written by another version of the program
					t.stats.errors.Add(1)
					alone = append(alone, k)
					continue
				}
				t.stats.l2.Add(1)
				limits[k].ttl = max(f.TTL, 1)
				got[k] = v
			case f.Lease != "":
				limits[k].skip = true
				leased, leasedNames, filled = append(leased, k), append(leasedNames, names[i]),
					append(filled, Filled{Lease: f.Lease})
			default:
				waiting = append(waiting, k)
			}
		}
		if len(leased) > 0 {
			if err := t.loadLeased(ctx, leased, leasedNames, filled, limits, load, got); err != nil {
				return got, err
			}
		}
		if keys = waiting; len(keys) == 0 {
			break
		}
		// Others are loading these: all are waited for together.
		t.stats.waits.Add(int64(len(keys)))
		d := leasePolicy.Delay(attempt)
		if time.Now().Add(d).After(end) {
			alone = append(alone, keys...)
			break
		}
		if err := backoff.Sleep(ctx, d+time.Millisecond); err != nil {
			return got, err
		}
	}
	if len(alone) == 0 {
		return got, nil
	}
	for _, k := range alone {
		limits[k].skip = true
	}
	t.stats.loads.Add(1)
	loaded, err := load(ctx, alone)
	for _, k := range alone {
		if v, ok := loaded[k]; ok && err == nil {
			got[k] = v
		}
	}
	return got, err
}

// loadLeased loads the keys that this process holds the leases of, and gives all leases back.
func (t *Tiered[K, V]) loadLeased(ctx context.Context, keys []K, names []string, filled []Filled, limits map[K]*limit,
	load func(context.Context, []K) (map[K]V, error), got map[K]V) error {
	returned := false
	defer func() {
		if !returned { // panic
			_, _ = fillMany(context.WithoutCancel(ctx), t.l2, names, filled, t.o.TTL)
		}
	}()
	t.stats.loads.Add(1)
	loaded, lerr := load(ctx, keys)
	for i, k := range keys {
		v, ok := loaded[k]
		if lerr != nil || !ok {
			limits[k].skip = lerr != nil // what is known not to exist may be remembered
			continue
		}
		got[k] = v
		if data, err := t.o.Codec.Encode(v); err == nil {
			if data == nil {
				data = []byte{}
			}
			filled[i].Value = data
		}
	}
	returned = true
	stored, err := fillMany(context.WithoutCancel(ctx), t.l2, names, filled, t.o.TTL)
	if err != nil {
		t.stats.errors.Add(1)
		return lerr
	}
	for i, k := range keys {
		switch {
		case filled[i].Value == nil:
		case stored[i]:
			limits[k].skip, limits[k].ttl = false, t.o.TTL
		default:
			t.stats.fenced.Add(1)
		}
	}
	return lerr
}
