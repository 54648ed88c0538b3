// Package health decides whether something is up from a stream of observations: consecutive successes (rise) and
// failures (fall) with an optional minimum hold, and runs probes that make those observations.
package health

import "time"

// State is what a Machine believes.
type State uint8

const (
	// Unknown is the state before enough observations: it counts as up, so that a start-up never takes all nodes out.
	Unknown State = iota
	// Up passed its probes.
	Up
	// Down failed them.
	Down
)

func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return "unknown"
}

// Config sets the thresholds of a Machine. The zero value is ready.
type Config struct {
	// Rise is how many successes in a row bring a node up. Zero means 2.
	Rise int
	// Fall is how many failures in a row take it down. Zero means 3.
	Fall int
	// MinHold keeps a state at least this long before it may flip. Zero means no hold.
	MinHold time.Duration
}

// Machine is the rise/fall state machine. It is a plain value driven by its caller's clock: not safe for concurrent
// use.
//
//	state    ok                         failure
//	Unknown  Up at once                 Down after Fall in a row
//	Up       stays, failures forgotten  Down after Fall in a row, once MinHold has passed
//	Down     Up after Rise in a row,    stays, successes forgotten
//	         once MinHold has passed
type Machine struct {
	rise, fall int
	hold       time.Duration
	state      State
	streak     int // observations in a row that speak against state
	since      time.Time
}

// NewMachine returns a machine in state Unknown.
func NewMachine(c Config) Machine {
	if c.Rise <= 0 {
		c.Rise = 2
	}
	if c.Fall <= 0 {
		c.Fall = 3
	}
	return Machine{rise: c.Rise, fall: c.Fall, hold: c.MinHold}
}

// Observe takes one result made at now and reports whether the state changed. A streak that is long enough but comes
// within MinHold flips the state at the first agreeing observation after it.
func (m *Machine) Observe(ok bool, now time.Time) (changed bool) {
	switch {
	case m.state == Unknown && ok:
		return m.set(Up, now)
	case ok != (m.state == Down):
		m.streak = 0
		return false
	}
	m.streak++
	need, next := m.fall, Down
	if ok {
		need, next = m.rise, Up
	}
	if m.streak < need || (m.state != Unknown && now.Sub(m.since) < m.hold) {
		return false
	}
	return m.set(next, now)
}

// Force puts the machine in a state at once: a refused connection, an operator's word.
func (m *Machine) Force(s State, now time.Time) (changed bool) {
	if m.state == s {
		m.streak = 0
		return false
	}
	return m.set(s, now)
}

func (m *Machine) set(s State, now time.Time) bool {
	m.state, m.streak, m.since = s, 0, now
	return true
}

// State returns the current state.
func (m *Machine) State() State { return m.state }

// Since returns when the current state began; zero while Unknown.
func (m *Machine) Since() time.Time { return m.since }

// Up reports whether traffic may go there: true unless Down.
func (m *Machine) Up() bool { return m.state != Down }
