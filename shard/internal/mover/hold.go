package mover

import (
	"context"
	"sync"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// keeper keeps the sources of a reversible job up to date.
type keeper struct {
	*work
	cluster Cluster
	capture *capture
	once    sync.Once
	held    chan struct{} // closed when the job waits for Complete or Rollback
}

// keep brings the writes of clients on the targets to the sources, until another mover takes the job over to complete
// it or roll it back.
func (k *keeper) keep(ctx context.Context, js *stored.Job) error {
	if err := k.enter(stored.Hold); err != nil {
		return err
	}
	var back []*group
	for at := 0; at < len(js.Moves); {
		g, err := newGroup(k.cluster, js, at, stored.GroupSize(js.Moves[at:], k.opts.Group))
		if err != nil {
			return err
		}
		g.from, g.to = g.to, g.from
		if err := k.load(ctx, g, ErrSchemaChanged); err != nil {
			return err
		}
		back, at = append(back, g), g.end
	}
	k.once.Do(func() { close(k.held) })
	for n := 0; ; n++ {
		found := 0
		for _, g := range back {
			dirty, err := k.capture.drain(ctx, g, drainMax)
			if err != nil {
				return err
			}
			found += dirty
		}
		if found > 0 {
			n = 0
		}
		if err := k.step("mid hold"); err != nil {
			return err
		}
		if err := backoff.Sleep(ctx, k.pauses.hold.Delay(n)); err != nil {
			return err
		}
		// Complete and Rollback take a new token. An idle mover would not notice otherwise.
		if st, err := k.cluster.Load(ctx); err != nil {
			return err
		} else if st.Job == nil || st.Job.Token != k.Token {
			return sqldb.ErrMoverLost
		}
	}
}
