package lb

import "sync/atomic"

// follower keeps something in step with the requests in flight on each of a picker's backends: an index of the least
// loaded, a total. It is told after a change and reads the backend itself, so that what it is told late is not wrong.
type follower interface{ loadChanged(i int) }

// following are the followers of one backend. There is one, unless a policy of the user's own builds several pickers
// over the same backends. Those of a picker that was replaced are dropped once its snapshot is.
type following struct {
	list atomic.Pointer[[]followed]
}

type followed struct {
	f follower
	i int // the backend's index at f
}

// follow makes f hear of every backend's changes from now on, and of what stands now.
func follow(bs []*Backend, f follower) {
	for i, b := range bs {
		b.following.add(followed{f, i})
		f.loadChanged(i)
	}
}

func (w *following) add(x followed) {
	for {
		old := w.list.Load()
		list := []followed{x}
		if old != nil {
			list = append(append(make([]followed, 0, len(*old)+1), *old...), x)
		}
		if w.list.CompareAndSwap(old, &list) {
			return
		}
	}
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
		var list *[]followed
		if rest := (*old)[n:]; len(rest) > 0 {
			list = &rest
		}
		if w.list.CompareAndSwap(old, list) {
			return
		}
	}
}

func (w *following) tell() {
	if l := w.list.Load(); l != nil {
		for _, x := range *l {
			x.f.loadChanged(x.i)
		}
	}
}
