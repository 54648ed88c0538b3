package lb

import "sync/atomic"

// Follow calls changed after each change of the backend's requests in flight, on the goroutine of the request that
// changed them, so that a picker can keep an index of loads. changed must not block; it reads the load by
// [Backend.InFlight], so that calls that overtake each other do no harm. Only [Policy.Picker] may call Follow; the
// balancer ends the calls when it has replaced the picker.
func (b *Backend) Follow(changed func()) {
	for {
		old := b.following.list.Load()
		list := []func(){changed}
		if old != nil {
			list = append(append(make([]func(), 0, len(*old)+1), *old...), changed)
		}
		if b.following.list.CompareAndSwap(old, &list) {
			return
		}
	}
}

// following are the functions given to Follow, in that order. There is one, unless a policy builds several pickers over
// the same backends.
type following struct {
	list atomic.Pointer[[]func()]
}

func (w *following) count() int {
	if l := w.list.Load(); l != nil {
		return len(*l)
	}
	return 0
}

// forget drops the n oldest.
func (w *following) forget(n int) {
	for n > 0 {
		old := w.list.Load()
		var list *[]func()
		if rest := (*old)[n:]; len(rest) > 0 {
			list = &rest
		}
		if w.list.CompareAndSwap(old, list) {
			return
		}
	}
}

// notify calls the followers.
func (w *following) notify() {
	if l := w.list.Load(); l != nil {
		for _, changed := range *l {
			changed()
		}
	}
}
