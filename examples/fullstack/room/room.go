// Package room is the operator of the control room: it offers buttons that break and mend the running service, and writes
// into the timeline when each failure was noticed, when it was mended, and what clients felt of it.
package room

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/assemble"
	"github.com/tierkit/tierkit/examples/fullstack/drill"
	"github.com/tierkit/tierkit/examples/fullstack/visitors"
	"github.com/tierkit/tierkit/metrics/dashboard"
)

// slow is what a node that is slowed down adds to everything that it reads.
const slow = 150 * time.Millisecond

// Room implements assemble.Operator. Its methods are safe for concurrent use.
type Room struct {
	ctx        context.Context
	s          *assemble.Stack
	population *visitors.Population
	wg         sync.WaitGroup

	mu       sync.Mutex             // guards what follows
	open     map[string]*disruption // by target: what is broken now
	drilling bool
	drilled  int // failures of the drill so far
}

// disruption is one failure that an operator injected.
type disruption struct {
	*assemble.Incident
	began  time.Time
	before visitors.Stats
	ended  chan struct{}
}

// New returns a room over a running service and its visitors. What it watches in the background ends with ctx.
func New(ctx context.Context, s *assemble.Stack, p *visitors.Population) *Room {
	return &Room{ctx: ctx, s: s, population: p, open: map[string]*disruption{}}
}

// Wait waits for what runs in the background, after ctx has ended.
func (r *Room) Wait() { r.wg.Wait() }

const (
	kill     = "kill"
	freeze   = "freeze"
	slowDown = "slow"
	restore  = "restore"
	lose     = "lose " // and the name of a data center
	burst    = "burst"
	star     = "celebrity"
	whole    = "drill"
)

// NodeActions implements assemble.Operator.
func (r *Room) NodeActions(n assemble.Node) []dashboard.Action {
	if n.State != dashboard.StateUp {
		return []dashboard.Action{{Name: restore, Label: "Restore"}}
	}
	if n.ID == "queue" || n.ID == "sessions" {
		return nil // single in this mode
	}
	as := []dashboard.Action{{Name: kill, Label: "Kill", Detail: "at once, as kill -9"}}
	if n.Tier != "workers" && n.ID != "cache" && n.Tier != "dns" {
		as = append(as, dashboard.Action{Name: freeze, Label: "Freeze", Detail: "as SIGSTOP"},
			dashboard.Action{Name: slowDown, Label: "Slow", Detail: "adds " + slow.String()})
	}
	return as
}

// Actions implements assemble.Operator.
func (r *Room) Actions() []dashboard.Action {
	r.mu.Lock()
	defer r.mu.Unlock()
	var as []dashboard.Action
	for _, c := range []string{assemble.East, assemble.West} {
		a := dashboard.Action{Name: lose + c, Label: "Lose " + c, Detail: "everything in it at once"}
		if r.open[c] != nil {
			a.Active, a.Detail = true, "press to restore"
		}
		as = append(as, a)
	}
	crowd := r.population.Crowd()
	as = append(as,
		toggle(burst, "Burst x10", "ten times the requests", crowd.Factor > 1),
		toggle(star, "Celebrity", "everybody reads one chapter", crowd.Star))
	d := dashboard.Action{Name: whole, Label: "Run the whole drill", Detail: "one failure after the other"}
	if r.drilling {
		d.Active, d.Progress = true, float64(r.drilled)/float64(drill.Count)
		d.Detail = fmt.Sprintf("%d of %d", r.drilled, drill.Count)
	}
	return append(as, d)
}

func toggle(name, label, detail string, on bool) dashboard.Action {
	a := dashboard.Action{Name: name, Label: label, Detail: detail, Active: on}
	if on {
		a.Detail = "press to end"
	}
	return a
}

// Act implements assemble.Operator.
func (r *Room) Act(ctx context.Context, target, action string) error {
	switch {
	case action == kill:
		return r.inject(target, "killed "+target, func() error { return r.s.Kill(target) })
	case action == freeze:
		return r.inject(target, "froze "+target, func() error { return r.s.Freeze(target) })
	case action == slowDown:
		return r.inject(target, "slowed "+target+" down", func() error { return r.s.Slow(target, slow) })
	case action == restore:
		return r.restore(target, func() error { return r.s.Restore(ctx, target) })
	case strings.HasPrefix(action, lose):
		c := strings.TrimPrefix(action, lose)
		if r.broken(c) {
			return r.restore(c, func() error { return r.s.RestoreCenter(ctx, c) })
		}
		return r.inject(c, "lost the data center "+c, func() error { return r.s.KillCenter(c) })
	case action == burst:
		return r.crowd(burst, "burst of requests", func(c *visitors.Crowd) bool { c.Factor = 11 - c.Factor; return c.Factor > 1 })
	case action == star:
		return r.crowd(star, "celebrity", func(c *visitors.Crowd) bool { c.Star = !c.Star; return c.Star })
	case action == whole:
		return r.drill()
	}
	return fmt.Errorf("room: unknown action %q", action)
}

func (r *Room) broken(target string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open[target] != nil
}

// inject breaks something and watches what becomes of it.
func (r *Room) inject(target, text string, breakIt func() error) error {
	d := &disruption{began: time.Now(), before: r.population.Stats(), ended: make(chan struct{})}
	if err := breakIt(); err != nil {
		return err
	}
	d.Incident = r.s.Begin(target, text)
	r.mu.Lock()
	r.open[target] = d
	r.mu.Unlock()
	r.wg.Go(func() { r.watch(target, d) })
	return nil
}

// watch waits until the tier above has stopped using what is broken, which is when others do its work.
func (r *Room) watch(target string, d *disruption) {
	noticed := func() bool { return !r.s.Used(target) }
	if target == assemble.East || target == assemble.West {
		noticed = func() bool {
			for _, n := range r.s.Nodes() {
				if n.Zone == target && n.Tier == "edge" && r.s.Used(n.ID) {
					return false
				}
			}
			return true
		}
	}
	if !r.until(d, noticed) {
		return
	}
	d.Noticed()
	if r.until(d, r.serving) {
		d.Mended(r.felt(d))
	}
}

// serving reports whether every shard takes writes.
func (r *Room) serving() bool {
	for _, id := range r.s.ShardIDs() {
		if !r.s.Writable(r.ctx, id) {
			return false
		}
	}
	return true
}

// until polls cond until it holds; it is false if the disruption ends before.
func (r *Room) until(d *disruption, cond func() bool) bool {
	for r.ctx.Err() == nil {
		if cond() {
			return true
		}
		select {
		case <-d.ended:
			return false
		case <-time.After(20 * time.Millisecond):
		case <-r.ctx.Done():
		}
	}
	return false
}

// felt is what the visitors saw since the disruption began.
func (r *Room) felt(d *disruption) *dashboard.Felt {
	now := r.population.Stats()
	took := now.Took.Sub(d.before.Took)
	return &dashboard.Felt{Requests: now.Requests - d.before.Requests, Errors: now.Errors - d.before.Errors,
		P99: took.Quantile(0.99)}
}

func (r *Room) restore(target string, mendIt func() error) error {
	if err := mendIt(); err != nil {
		return err
	}
	r.mu.Lock()
	d := r.open[target]
	delete(r.open, target)
	r.mu.Unlock()
	if d != nil {
		close(d.ended)
		d.Restored(r.felt(d))
	}
	return nil
}

// crowd changes what the visitors do.
func (r *Room) crowd(name, text string, change func(*visitors.Crowd) bool) error {
	crowd := r.population.Crowd()
	if on := change(&crowd); on {
		d := &disruption{Incident: r.s.Begin("", text), began: time.Now(), before: r.population.Stats(),
			ended: make(chan struct{})}
		r.mu.Lock()
		r.open[name] = d
		r.mu.Unlock()
	} else if err := r.restore(name, func() error { return nil }); err != nil {
		return err
	}
	r.population.SetCrowd(crowd)
	return nil
}

// drill plays the schedule of -chaos, one failure after the other.
func (r *Room) drill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.drilling {
		return fmt.Errorf("room: the drill runs already")
	}
	r.drilling, r.drilled = true, 0
	r.wg.Go(func() {
		_, err := drill.Run(r.ctx, r.s, drill.Hooks{Start: time.Now(), Done: func(drill.Failover) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.drilled++
		}}, 40*time.Second)
		if err != nil && r.ctx.Err() == nil {
			r.s.Event("failure", "the drill ended: "+err.Error())
		} else {
			r.s.Event("info", "the drill is over")
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.drilling = false
	})
	return nil
}
