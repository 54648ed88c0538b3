// Package drill breaks one of each redundant tier of the assembled service while it is used, and notes how it took it.
package drill

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/assemble"
	"github.com/tierkit/tierkit/internal/backoff"
)

// Failover is one injected failure and how the stack took it.
type Failover struct {
	What string `json:"what"`
	// AtS is when it was injected, in seconds from the start of the play.
	AtS float64 `json:"at_s"`
	// DetectedMS is until the tier above stopped using what had failed, RecoveredMS until its work was done again by
	// others; -1 when that did not happen within 10 s.
	DetectedMS  float64 `json:"detected_ms"`
	RecoveredMS float64 `json:"recovered_ms"`
	// WindowMS is how long clients may feel it: with errors for a lost center, with delayed writes for a lost primary,
	// and not at all (0) for everything else.
	WindowMS float64 `json:"window_ms"`

	At      time.Time `json:"-"`
	Excuses bool      `json:"-"` // errors within the window are allowed
}

// Hooks are what the drills need of the play.
type Hooks struct {
	Start time.Time
	// Writing reports whether at least one write is in flight.
	Writing func() bool
	// Only names the drills to carry out; nil means all.
	Only []string
	// Done, if set, is called after each drill.
	Done func(Failover)
}

// Count is the number of drills in the whole schedule.
const Count = 9

// drill is one failure: inject, wait until it is detected and recovered from, hold, and bring the node back.
type drill struct {
	what      string
	window    time.Duration
	excuses   bool
	inject    func(ctx context.Context) error
	detected  func() bool
	recovered func(ctx context.Context) bool // nil: when detected
	hold      time.Duration
	revive    func(ctx context.Context) error
	whole     func() bool // everything is as before
}

// Run breaks one of each redundant tier and then a whole center, one after the other, spread over the duration of the
// play, each while a write is in flight. It returns what happened; an error means that a drill could not be carried
// out.
func Run(ctx context.Context, s *assemble.Stack, h Hooks, play time.Duration) ([]Failover, error) {
	drills := slices.DeleteFunc(drills(s), func(d drill) bool {
		return h.Only != nil && !slices.Contains(h.Only, d.what)
	})
	var out []Failover
	for i, d := range drills {
		// The first at 8 % of the play, the last (the center) at 66 %, and never sooner than the one before is over.
		due := h.Start.Add(time.Duration(float64(play) * (0.08 + 0.58*float64(i)/float64(max(len(drills)-1, 1)))))
		if err := backoff.Sleep(ctx, time.Until(due)); err != nil {
			return out, err
		}
		f, err := d.run(ctx, s, h)
		if err != nil {
			return out, fmt.Errorf("drill %q: %w", d.what, err)
		}
		out = append(out, f)
		if h.Done != nil {
			h.Done(f)
		}
	}
	return out, nil
}

func (d drill) run(ctx context.Context, s *assemble.Stack, h Hooks) (Failover, error) {
	for wait := time.Now(); h.Writing != nil && !h.Writing() && time.Since(wait) < time.Second; {
		if err := backoff.Sleep(ctx, time.Millisecond); err != nil {
			return Failover{}, err
		}
	}
	at := time.Now() // before the injection: what it takes is part of the failure
	f := Failover{What: d.what, At: at, AtS: at.Sub(h.Start).Seconds(), WindowMS: ms(d.window), Excuses: d.excuses}
	incident := s.Begin("", d.what)
	if err := d.inject(ctx); err != nil {
		return f, err
	}
	f.DetectedMS = until(ctx, at, limit, d.detected)
	incident.Noticed()
	f.RecoveredMS = f.DetectedMS
	if d.recovered != nil {
		f.RecoveredMS = until(ctx, at, limit, func() bool { return d.recovered(ctx) })
	}
	incident.Mended(nil)
	if err := backoff.Sleep(ctx, d.hold); err != nil {
		return f, err
	}
	if d.revive != nil {
		if err := d.revive(ctx); err != nil {
			return f, err
		}
		incident.Restored(nil)
	}
	if d.whole != nil && until(ctx, time.Now(), 3*limit, d.whole) < 0 {
		return f, fmt.Errorf("not whole again after %v", 3*limit)
	}
	return f, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// limit is how long a drill waits for what should take far less.
const limit = 10 * time.Second

// until polls a condition and returns the milliseconds since at, or -1.
func until(ctx context.Context, at time.Time, most time.Duration, cond func() bool) float64 {
	for start := time.Now(); time.Since(start) < most && ctx.Err() == nil; {
		if cond() {
			return ms(time.Since(at))
		}
		_ = backoff.Sleep(ctx, 2*time.Millisecond)
	}
	return -1
}

// drills is the schedule, from the outside in.
func drills(s *assemble.Stack) []drill {
	var id string // of the node that the running drill broke
	var before int64
	shards := s.ShardIDs()
	// kill is a drill that ends a node; clients must not feel it.
	kill := func(what string, pick func() string) drill {
		return drill{what: what, hold: time.Second,
			inject:   func(context.Context) error { id = pick(); return s.Kill(id) },
			detected: func() bool { return !s.Used(id) },
			revive:   func(ctx context.Context) error { return s.Restore(ctx, id) },
			whole:    func() bool { return s.Whole(id) }}
	}
	named := func(tier, id string) drill { return kill(tier+" "+id, func() string { return id }) }
	cache := kill("the second cache tier", func() string { before = s.CacheTrouble(); return "cache" })
	cache.detected = func() bool { return s.CacheTrouble() > before }

	return []drill{
		named("name server", "ns1"),
		named("edge", assemble.West+"-edge1"),
		named("balancer", assemble.East+"-lb1"),
		kill("a web server", func() string { return nodes(s, "web", assemble.West)[0] }),
		{what: "a worker in the middle of a job",
			inject: func(ctx context.Context) error {
				before = s.LeasesExpired()
				return s.KillWorkerMidJob(ctx)
			},
			detected: func() bool { return s.LeasesExpired() > before }},
		cache,
		{what: "a replica frozen", hold: time.Second,
			inject: func(context.Context) error {
				id = s.Replica(shards[1], assemble.East)
				return s.Freeze(id)
			},
			detected: func() bool { return !s.Used(id) },
			revive:   func(ctx context.Context) error { return s.Restore(ctx, id) },
			whole:    func() bool { return s.Whole(id) }},
		{what: "the primary of shard " + shards[0], window: time.Second, hold: time.Second,
			inject: func(ctx context.Context) (err error) {
				id, err = s.KillPrimary(ctx, shards[0])
				return err
			},
			detected:  func() bool { return !s.Used(id) || s.Primary(shards[0]) != "" },
			recovered: func(ctx context.Context) bool { return s.Writable(ctx, shards[0]) },
			revive:    func(ctx context.Context) error { return s.Restore(ctx, id) },
			whole:     func() bool { return s.ShardWhole(shards[0]) }},
		{what: "the data center " + assemble.East, window: assemble.CenterWindow, excuses: true, hold: 2 * time.Second,
			inject:   func(context.Context) error { return s.KillCenter(assemble.East) },
			detected: func() bool { return !slices.ContainsFunc(nodes(s, "edge", assemble.East), s.Used) },
			recovered: func(ctx context.Context) bool {
				return !slices.ContainsFunc(shards, func(id string) bool { return !s.Writable(ctx, id) })
			},
			revive: func(ctx context.Context) error { return s.RestoreCenter(ctx, assemble.East) },
			whole: func() bool {
				return !slices.ContainsFunc(nodes(s, "edge", assemble.East), func(id string) bool { return !s.Whole(id) }) &&
					!slices.ContainsFunc(shards, func(id string) bool { return !s.ShardWhole(id) })
			}},
	}
}

// nodes lists the nodes of a tier in a data center.
func nodes(s *assemble.Stack, tier, zone string) (ids []string) {
	for _, n := range s.Nodes() {
		if n.Tier == tier && n.Zone == zone {
			ids = append(ids, n.ID)
		}
	}
	return ids
}
