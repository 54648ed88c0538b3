package lb

import (
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"weak"
)

const (
	defaultReserve = 32 << 20
	stretchSize    = 4 << 20
	// A process that was given a memory limit below this many reserves has better uses for what a reserve lets pile up.
	reserveShare = 8
)

// heapReserve is memory that is allocated and never touched: no page of it is ever resident, but the collector, which
// runs when the heap has grown by GOGC percent of what it held, counts it. All balancers of a process share one, as
// large as the largest that one of them wants; it is gone when the last of them is closed or unreachable.
type heapReserve []*stretch

// stretch is a part of the reserve. Its bytes come from a strings.Builder because make would write zeros into memory
// that was used before, which would make it resident.
type stretch struct{ bytes strings.Builder }

var reserved struct {
	mu   sync.Mutex // guards held
	held []weak.Pointer[stretch]
}

// holdReserve returns n bytes of the process's reserve, rounded up to whole stretches; none when n is not positive or
// the process has a memory limit (GOMEMLIMIT) that is too small for it.
func holdReserve(n int) heapReserve {
	if n <= 0 || debug.SetMemoryLimit(-1)/reserveShare < int64(n) {
		return nil
	}
	reserved.mu.Lock()
	defer reserved.mu.Unlock()
	var hold heapReserve
	for i := 0; i*stretchSize < n; i++ {
		if i == len(reserved.held) {
			reserved.held = append(reserved.held, weak.Pointer[stretch]{})
		}
		s := reserved.held[i].Value()
		if s == nil {
			s = new(stretch)
			s.bytes.Grow(stretchSize)
			reserved.held[i] = weak.Make(s)
		}
		hold = append(hold, s)
	}
	return hold
}

// reserveHeld is what the process holds now, in bytes.
func reserveHeld() (n int64) {
	reserved.mu.Lock()
	defer reserved.mu.Unlock()
	for _, w := range reserved.held {
		if s := w.Value(); s != nil {
			n += int64(s.bytes.Cap())
			runtime.KeepAlive(s)
		}
	}
	return n
}
