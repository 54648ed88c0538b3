// Package tick is a clock for those who ask far more often whether a moment has come than it comes: a cache looks at a
// deadline with each read, and asking the system for the time is half of what such a read costs.
//
// A [Clock] is the monotonic clock of package time. [Clock.Before] answers "this moment has certainly not come" by the
// processor's time stamp counter alone, in a third of the time; when it cannot, the caller looks at the clock itself
// ([Clock.Renew]). So a deadline is kept to the nanosecond, whatever the counter does. This is why the answer holds:
//
//   - The counter is used only where the processor says that it runs at one rate in all states (CPUID 8000_0007H, EDX
//     bit 8: invariant) and the kernel keeps the time by it (Linux, clock source "tsc"). What CLOCK_MONOTONIC says is
//     then computed from the same register, read on the same processor: processors whose counters differ, or a counter
//     that errs, would be seen by the kernel's clock as by us. [Clock.Check] looks whether the kernel has changed its
//     mind.
//   - A look at the clock gives a grant: "until the counter has gone on by span, it is not later than until". The span
//     is the time in which the counter, at its lowest measured rate, runs through half of what the grant promises. The
//     kernel steers its clock by 11 % at most (its maxadj; adjtimex allows a tenth), so that the rate of a measurement
//     is at most 5/4 of that of its use, where a factor of 2 is allowed.
//   - The counter is read before the clock, so that a thread that is preempted in between gets a grant that ends early.
//     The order of the two is kept by the kernel's own fence; Before has none, and does not need it: of the 10 ms
//     promised at least 3 are left when the span ends.
//   - A process that is stopped (SIGSTOP, a frozen container), or waits for a processor, finds the counter beyond the
//     span.
//   - A suspended machine: if the counter runs on, it is beyond the span. If it starts again at 0, it is behind the
//     grant, which reads as far beyond, and no grant is given before it has counted two minutes: by then Check, called
//     at least once a minute, has taken back the one of before.
//   - A suspended machine during a measurement, with a counter that runs on while the monotonic clock stands: the wall
//     clock shows it, and the lowest of three rates is taken. A counter that is later seen to be slower than three
//     quarters of that is not used again.
//   - Before and the renewal of a grant by others go on together without a lock: until only grows, and is written
//     before and read after the counter that it belongs to. A new until with an old counter promises less than the old
//     one.
//   - In a bubble of testing/synctest time is not real, and the counter is. [time.Now] has no monotonic reading there:
//     a clock that is started in a bubble never uses the counter, and a look at another clock from inside of a bubble
//     gives no grant.
package tick

import (
	"os"
	"strings"
	"sync"
	"time"
)

// Clock is safe for concurrent use after Start. It must not be copied.
type Clock struct {
	grant  // first: what reads look at lies together
	start  time.Time
	offset int64 // of start, from base
	used   bool  // may use the counter, until it is stopped
}

// The counter is the process's, and so is its pace. base is read outside of any bubble.
var (
	base    = time.Now()
	counted pace
	usable  = sync.OnceValue(func() bool { return invariant() && trusted() })
)

// trusted reports whether the kernel keeps the time by the counter.
func trusted() bool {
	b, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	return err == nil && strings.TrimSpace(string(b)) == "tsc"
}

// fake reports whether a time is one of a bubble.
func fake(t time.Time) bool { return t == t.Round(0) }

// Start sets the clock to 0. The first calls of Renew in the process measure the rate of the counter, for some tens of
// milliseconds.
func (k *Clock) Start() {
	k.start = time.Now()
	k.offset = int64(k.start.Sub(base))
	k.used = hasCounter && !fake(k.start) && usable() && !counted.slow.Load()
}

// Before reports whether the clock is certainly before t, nanoseconds since Start; false says nothing.
func (k *Clock) Before(t int64) bool { return hasCounter && k.holds(counter(), t) }

// Count is a reading of the counter.
type Count uint64

// Counts reports whether the clock may use the counter; where it may not, Read is in vain.
func (k *Clock) Counts() bool { return k.used }

// Read reads the counter for BeforeAt. The processor starts nothing new until it is read, and reads it when older loads
// are done: therefore it is asked to fetch beforehand what will be looked at next, the lines at two addresses. They
// need not be valid.
func Read(first, last uintptr) Count { return Count(fetchCounter(first, last)) }

// BeforeAt reports whether the clock was certainly before t when the counter was read; false says nothing.
func (k *Clock) BeforeAt(at Count, t int64) bool { return hasCounter && k.holds(uint64(at), t) }

// Now is the exact time, in nanoseconds since Start.
func (k *Clock) Now() int64 { return int64(time.Since(k.start)) }

// Renew is Now, for those whom Before did not answer: it sees to it that the next ones are.
func (k *Clock) Renew() int64 {
	if !k.used || k.young(counter()) || !k.mu.TryLock() {
		return k.Now()
	}
	defer k.mu.Unlock()
	return k.look()
}

// Check takes back a grant that a suspended machine has left, and looks whether the counter is still to be trusted.
// While Before is used it must be called at least once a minute; Stop when that ends.
func (k *Clock) Check() {
	if !k.used {
		return
	}
	if !trusted() {
		k.Stop()
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.look()
}

// Stop ends the use of the counter: Before is false from now on.
func (k *Clock) Stop() { k.stop() }

// look reads clock and counter, and renews the grant. mu is held.
func (k *Clock) look() int64 {
	r := reading{before: counter()}
	t := time.Now()
	r.after = counter()
	now := int64(t.Sub(k.start))
	if fake(t) {
		return now
	}
	r.mono, r.wall = int64(t.Sub(base)), t.UnixNano()
	counted.measure(r)
	r.mono -= k.offset
	k.take(r, counted.rate())
	return now
}
