package geodns

import (
	"fmt"
	"net/netip"
	"time"
)

// alter changes a center under the lock.
func (r *Router) alter(dc string, f func(*center) error) error {
	r.mu.Lock()
	c := r.centers[dc]
	if c == nil {
		r.mu.Unlock()
		return fmt.Errorf("%w %q", ErrUnknownDC, dc)
	}
	err := f(c)
	if err == nil {
		r.rebuild(time.Now())
	}
	r.mu.Unlock()
	r.tell()
	return err
}

// Drain takes a center out of answers until [Router.Undrain]. Clients leave as their answers' TTL ends.
func (r *Router) Drain(dc string) error {
	return r.alter(dc, func(c *center) error {
		c.drained = true
		return nil
	})
}

// Undrain lets a center take traffic again, with the ramp.
func (r *Router) Undrain(dc string) error {
	return r.alter(dc, func(c *center) error {
		c.drained = false
		return nil
	})
}

// Vote sets a center's health as one of several named probers sees it, such as the other name servers or machines in
// other networks. A center is down when HealthOptions.Quorum voters say so: one prober with a bad line of its own takes
// nobody out. Votes come on top of the router's own checks. They stay until they are changed, or for
// HealthOptions.VoteTTL.
//
// Errors: [ErrUnknownDC], [ErrVoters].
func (r *Router) Vote(dc, voter string, up bool) error {
	return r.alter(dc, func(c *center) error {
		if _, ok := c.votes[voter]; !ok && len(c.votes) >= 1000 {
			return ErrVoters
		}
		c.votes[voter] = vote{up, time.Now()}
		return nil
	})
}

// DCState is the state of a center in a [Router.Snapshot].
type DCState struct {
	Name    string
	Up      bool
	Drained bool
	Ramp    float64 // share of its traffic that it takes now, 0 to 1
	Addrs   []AddrState
	Since   time.Time // of the last change; zero: none since the start
	LastErr string    // of its last check; "" when that was good
}

// AddrState is the state of one address.
type AddrState struct {
	Addr    netip.Addr
	Up      bool
	LastErr string
}

// Snapshot returns the state of all centers, in the order of the options.
func (r *Router) Snapshot() []DCState {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]DCState, 0, len(r.dcs))
	for _, d := range r.dcs {
		c := r.centers[d.Name]
		s := DCState{Name: d.Name, Up: c.up, Drained: c.drained, Since: c.since, LastErr: c.lastErr}
		if c.up {
			s.Ramp = 1
			if !c.rampFrom.IsZero() {
				s.Ramp = c.ramp(now, r.o.Health.Ramp)
			}
		}
		for _, a := range d.Addrs {
			s.Addrs = append(s.Addrs, AddrState{a, c.addrs[a].up, c.addrs[a].lastErr})
		}
		out = append(out, s)
	}
	return out
}

// RouterStats sum up the centers of a [Router].
type RouterStats struct {
	Centers   int    `metric:"centers,gauge,Data centers"`
	Up        int    `metric:"centers_up,gauge,Data centers that take traffic"`
	Drained   int    `metric:"centers_drained,gauge,Data centers taken out by hand"`
	Ramping   int    `metric:"centers_ramping,gauge,Data centers that take a part of their traffic after recovery"`
	AddrsDown int    `metric:"addresses_down,gauge,Addresses left out of answers"`
	Changes   uint64 `metric:"center_changes_total,counter,Times that a data center went up or down"`
}

// Stats returns the present state, summed up.
func (r *Router) Stats() (s RouterStats) {
	for _, c := range r.Snapshot() {
		s.Centers++
		if c.Up {
			s.Up++
		}
		if c.Drained {
			s.Drained++
		}
		if c.Up && c.Ramp < 1 {
			s.Ramping++
		}
		for _, a := range c.Addrs {
			if !a.Up {
				s.AddrsDown++
			}
		}
	}
	r.mu.Lock()
	s.Changes = r.moves
	r.mu.Unlock()
	return s
}
