package mover

import (
	"context"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// leases waits until no process acts on what was true before some moment. Every process acts on its map for at most its
// MapTTL without asking; the longest is stored with the map.
type leases struct {
	cluster   Cluster
	token     uint64
	announced []announcement
}

// announcement: at this time the map had announced so many of the job's moves.
type announcement struct {
	moves int
	at    time.Time
}

// LeaseFor returns how long to wait until no process can still act on an older map. The extra tenth allows for clock
// drift.
func LeaseFor(ttl time.Duration) time.Duration { return ttl + ttl/10 }

// announce notes that the map now announces so many moves.
func (l *leases) announce(moves int) {
	if last := l.announced[len(l.announced)-1]; moves > last.moves {
		l.add(moves, time.Now())
	}
}

func (l *leases) add(moves int, at time.Time) {
	l.announced = append(l.announced, announcement{moves, at})
}

// waitOut returns when at least the longest lease has passed since a moment.
func (l *leases) waitOut(ctx context.Context, since time.Time) error {
	for {
		st, err := l.cluster.Load(ctx) // a process may have joined with a longer one
		if err != nil {
			return err
		}
		if st.Job == nil || st.Job.Token != l.token {
			return sqldb.ErrMoverLost
		}
		left := LeaseFor(max(st.Lease, l.cluster.MapTTL())) - time.Since(since)
		if left <= 0 {
			return nil
		}
		if err := backoff.Sleep(ctx, left); err != nil {
			return err
		}
	}
}

// waitAnnounced returns when every process knows that the group's slots are about to move, or asks the shards because
// its map is too old.
func (l *leases) waitAnnounced(ctx context.Context, g *group) error {
	for _, a := range l.announced {
		if a.moves >= g.end {
			return l.waitOut(ctx, a.at)
		}
	}
	return fmt.Errorf("shard: moves up to %d were not announced", g.end)
}
