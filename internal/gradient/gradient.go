// Package gradient is the control law of an adaptive concurrency limit, as a pure function: a state and the summary of
// a window give the next state. It has no clock, no lock and no requests of its own.
//
// The law is the gradient of Envoy's adaptive concurrency filter and of Netflix's concurrency-limits (Gradient2, 2018):
// each window the limit becomes limit x min(1, Tolerance x base / latency) + sqrt(limit), where latency is the window's
// 90th percentile and base the same without load. Differently from these, base is learned in passing: it falls with
// each better window and rises slowly while the limit is not reached. At a limit that is reached for half a minute the
// law lowers it to a quarter for a moment and measures again; where the limit fell to a quarter and latency did not
// follow, the service has become slower and base is what it is now.
package gradient

import (
	"math"
	"time"
)

// Law holds the constants of a limit.
type Law struct {
	Min, Max  float64       // bounds of the limit
	Tolerance float64       // how many times base the latency may be
	Window    time.Duration // least length of a window
}

// Window is what was seen between two steps.
type Window struct {
	Now       time.Duration // end of the window, on any monotonic clock
	Latency   time.Duration // 90th percentile of the answers; meaningless without Answers
	Answers   uint64        // good answers
	Overloads uint64        // failures that speak of overload
	Peak      float64       // most requests that were in flight
	Reached   bool          // the limit was reached
}

// State is what the law remembers. Start makes one.
//
//	phase      entered when                                  left when
//	opening    at the start; the limit doubles               a window is too slow, or shows overload
//	steady     after that; the gradient decides              the limit is reached for 30 s, or base is not known
//	measuring  from steady, with a quarter of the limit      a settled window was measured, or 8 windows are over
type State struct {
	Limit  float64       // requests that may be in flight at once
	Base   time.Duration // latency without load; 0: not known yet
	Length time.Duration // of the next window

	opening bool          // the limit has never been too high
	known   bool          // base was measured without load, once
	full    time.Duration // when the limit began to be reached all the time; 0: it is not
	top     float64       // limit when it began to fall steeply; 0: it does not
	probe   int           // windows that are left of a measurement
	resume  float64       // limit before the measurement
}

const (
	longestWindow  = time.Second      // a window lasts as long as an answer takes, up to this
	measureAfter   = 30 * time.Second // at the limit
	measureWindows = 8                // at a quarter of the limit, at most
)

// Start returns the first state, with a limit of initial.
func (l Law) Start(initial float64) State {
	return State{Limit: l.clamp(initial), Length: l.Window, opening: true}
}

func (l Law) clamp(limit float64) float64 { return math.Trunc(min(max(limit, l.Min), l.Max)) }

// First learns base from the first answers ever, which met the shortest queue. It changes nothing once base is known.
func (l Law) First(s State, latency time.Duration) State {
	if s.Base == 0 {
		s.learn(latency, true)
	}
	return s
}

// Next returns the state after a window.
func (l Law) Next(s State, w Window) State {
	answered := w.Answers > 0
	s.Length = l.Window
	if answered {
		s.Length = min(max(l.Window, w.Latency), longestWindow)
	}
	settled := w.Peak <= 1.1*s.Limit+1 // what was in flight above it has drained
	if s.probe > 0 {
		return l.measuring(s, w, settled && answered, settled)
	}
	overloaded := w.Overloads*10 > w.Answers+w.Overloads
	gradient := 1.0
	if answered {
		s.learn(w.Latency, w.Reached)
		gradient = min(1, max(0.5, l.Tolerance*s.Base.Seconds()/w.Latency.Seconds()))
	}
	s.opening = s.opening && gradient == 1 && !overloaded
	if gradient > 0.75 {
		s.top = 0
	} else if s.top == 0 {
		s.top = s.Limit
	} else if s.Limit <= max(s.top/4, l.Min) && settled && answered {
		// A quarter of the requests are as slow as all of them were: it is not their number. The service has become
		// slower.
		s.top = 0
		s.measured(w.Latency)
		return s
	}

	switch {
	case !w.Reached:
		s.full = 0
	case s.full == 0 && s.known:
		s.full = w.Now
	case !s.known, w.Now-s.full > measureAfter: // not known: all that was ever measured was measured under load
		s.full, s.probe, s.resume = w.Now, measureWindows, s.Limit
		s.Limit = l.clamp(s.Limit / 4)
		return s
	}
	next := s.Limit*gradient + math.Sqrt(s.Limit)
	if s.opening {
		next = 2 * s.Limit
	}
	if overloaded {
		next = min(next, s.Limit*0.9)
	}
	if next <= s.Limit || w.Reached { // a limit that is not used is not raised
		s.Limit = l.clamp(next)
	}
	return s
}

// measuring is a window at a quarter of the limit. The first such window has answers to requests from before.
func (l Law) measuring(s State, w Window, usable, settled bool) State {
	if s.probe--; s.probe < measureWindows-1 && settled {
		if usable {
			s.measured(w.Latency)
		}
		s.probe = 0
	}
	if s.probe == 0 {
		s.Limit = l.clamp(s.resume)
	}
	return s
}

// measured sets base to what was seen with few requests.
func (s *State) measured(d time.Duration) { s.Base, s.known = d, true }

// learn moves base towards a window's latency: down soon, since load only adds to a latency, and not by one lucky
// window alone; up only while nothing is held back, slowly.
func (s *State) learn(d time.Duration, reached bool) {
	switch {
	case s.Base == 0:
		s.Base = d
	case d < s.Base:
		s.Base += (d - s.Base) / 5
	case !reached:
		s.Base += (d - s.Base) / 50
	}
	s.known = s.known || !reached
}
