package cache

import (
	"context"
	"sync"
)

// debt are the changes that have not reached a server: keys that it may hold old values of. They are deleted from it
// before it is used again. A deletion that comes late or twice does no harm: the value is loaded once more.
type debt struct {
	mu       sync.Mutex // guards what follows, and the server's way back in
	keys     map[string]uint64
	count    uint64 // of changes, to tell a newer one of a key
	repaying bool
}

const (
	maxOwed  = 10_000 // keys, of one server
	repayers = 16
)

// owe remembers a key. Its caller was told that the change has failed, so it is no promise when there are too many.
func (r *Ring) owe(s *ringServer, key string) {
	s.debt.mu.Lock()
	defer s.debt.mu.Unlock()
	r.add(s, key)
}

// oweWhileOut does so if the server is out, and reports whether it is.
func (r *Ring) oweWhileOut(s *ringServer, key string) bool {
	if !s.out.Load() {
		return false
	}
	s.debt.mu.Lock()
	defer s.debt.mu.Unlock()
	if !s.out.Load() { // came back meanwhile
		return false
	}
	r.add(s, key)
	return true
}

func (r *Ring) add(s *ringServer, key string) {
	d := &s.debt
	if d.keys == nil {
		d.keys = map[string]uint64{}
	}
	if _, known := d.keys[key]; !known && len(d.keys) >= maxOwed {
		r.stats.forgotten.Add(1)
		return
	}
	d.count++
	d.keys[key] = d.count
}

// repay deletes what is owed to a server that answers again, behind the scenes, and reports whether there was any.
func (r *Ring) repay(ctx context.Context, s *ringServer) bool {
	d := &s.debt
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.repaying {
		return true
	}
	if len(d.keys) == 0 {
		return false
	}
	d.repaying = true
	type owed struct {
		key  string
		when uint64
	}
	work := make(chan owed, len(d.keys))
	for k, when := range d.keys {
		work <- owed{k, when}
	}
	close(work)
	r.tasks.Go(func() {
		var wg sync.WaitGroup
		for range min(repayers, len(work)) {
			wg.Go(func() {
				for o := range work {
					if ctx.Err() != nil || s.remote.Delete(ctx, o.key) != nil {
						return // the rest at the next look
					}
					r.stats.repaid.Add(1)
					d.mu.Lock()
					if d.keys[o.key] == o.when {
						delete(d.keys, o.key)
					}
					d.mu.Unlock()
				}
			})
		}
		wg.Wait()
		d.mu.Lock()
		d.repaying = false
		d.mu.Unlock()
	})
	return true
}
