package lb

// What the tests of package lb_test see of the inside.

// Began is when the process's clock began.
var Began = began

// CurrentPicker returns the picker in use.
func (b *Balancer) CurrentPicker() Picker { return b.snap.Load().picker }

// Answers returns how many answers Prequal has at hand, and how many it got so far.
func (b *Balancer) Answers() (answers, reports int) {
	b.prober.mu.Lock()
	defer b.prober.mu.Unlock()
	return len(b.prober.pool), b.prober.reports
}

// Acquire and Ended count a request on the backend and off it.
func (b *Backend) Acquire() bool { return b.acquire(0) }
func (b *Backend) Ended()        { b.ended() }

// ObserveLatency counts one latency.
func (b *Backend) ObserveLatency(seconds float64) {
	b.latency.observe(seconds, stamp(), fadeRate(defaultDecay))
}
