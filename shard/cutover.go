package shard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// handOver fences the source, drains what is left, and verifies what the earlier verification could not vouch for. On
// return the caller changes the map.
func (j *Job) handOver(g *group) error {
	d := j.c.opts.Dialect
	if err := j.load(g, ErrSchemaChanged); err != nil {
		return err
	}
	if j.verified == nil { // resumed: do the long part before writers have to wait
		if err := j.in(g.from, func(tx *sql.Tx) error {
			return d.setState(j.ctx, tx, g.slots, stateCapture)
		}); err != nil {
			return err
		}
		if err := j.catchUpAndVerify(g); err != nil {
			return err
		}
	}
	if _, err := j.drain(g, drainMax); err != nil {
		return err
	}
	if j.forgotten > dirtyBatch { // not while writers wait
		j.tidy(g)
	}
	if err := j.enter(PhaseFence); err != nil {
		return err
	}
	j.fencedAt = time.Now()
	// Waits for writers in flight: they hold the slot rows shared until they commit (settle saw to it, before what
	// j.verified says).
	err := j.in(g.from, func(tx *sql.Tx) error {
		if err := d.setState(j.ctx, tx, g.slots, stateFenced); err != nil {
			return err
		}
		now, err := j.describe(tx) // a schema that changes rewrites rows and no trigger sees it
		if err != nil {
			return err
		}
		for i, t := range g.tables {
			if !t.sameSchema(now[i]) {
				return fmt.Errorf("%w: table %s on %s", ErrSchemaChanged, t.Name, g.from.ID)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := j.enter(PhaseDrain); err != nil {
		return err
	}
	if _, err := j.drain(g, 0); err != nil {
		return err
	}
	rest := j.unverified(g)
	if len(rest) > 0 {
		differ, err := j.compare(g, rest)
		if err != nil {
			return err
		}
		if len(differ) > 0 {
			j.verified = nil
			if err := j.in(g.from, func(tx *sql.Tx) error {
				return d.setState(j.ctx, tx, g.slots, stateCapture)
			}); err != nil {
				return err
			}
			return fmt.Errorf("%w: slots %v of %s and %s", ErrVerify, differ[:min(len(differ), 10)], g.from.ID, g.to.ID)
		}
	}
	return j.enter(PhaseCommit)
}

// giveWay lets writers in again when the mover cannot go on behind the fence: because a shard does not answer, or
// because it is told to stop. What they write is noted and drained as before. Once the store was asked to hand the
// group over it is too late: the slots may be the target's.
func (j *Job) giveWay(g *group, why error) {
	if j.fencedAt.IsZero() || j.told || errors.Is(why, errCrash) || errors.Is(why, ErrMoverLost) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), 5*time.Second)
	defer cancel()
	again := &Job{c: j.c, opts: j.opts, token: j.token, ctx: ctx}
	if again.in(g.from, func(tx *sql.Tx) error {
		return j.c.opts.Dialect.setState(ctx, tx, g.slots, stateCapture)
	}) == nil {
		j.fencedAt = time.Time{}
	}
}

// open ends the hand-over: the source refuses reads too before the target accepts writes, so nobody reads what is
// already old.
func (j *Job) open(g *group, epoch uint64, reversible bool) error {
	d := j.c.opts.Dialect
	if err := j.enter(PhaseGone); err != nil {
		return err
	}
	if err := j.in(g.from, func(tx *sql.Tx) error { return d.setState(j.ctx, tx, g.slots, stateLeft) }); err != nil {
		return err
	}
	state := stateOwned
	if reversible {
		state = stateCapture
	}
	if err := j.enter(PhaseOwned); err != nil {
		return err
	}
	if err := j.in(g.to, func(tx *sql.Tx) error { return d.own(j.ctx, tx, g.slots, state, epoch) }); err != nil {
		return err
	}
	if !j.fencedAt.IsZero() {
		pause := time.Since(j.fencedAt)
		j.fencedAt = time.Time{}
		j.note(func(p *Progress) { p.WritePauses = append(p.WritePauses, pause) })
	}
	return nil
}

// outwait returns when at least the longest lease has passed since a moment.
func (j *Job) outwait(since time.Time) error {
	for {
		st, err := j.c.store.Load(j.ctx) // a process may have joined with a longer one
		if err != nil {
			return err
		}
		if st.Job == nil || st.Job.Token != j.token {
			return ErrMoverLost
		}
		left := leaseFor(max(st.Lease, j.c.opts.Lease)) - time.Since(since)
		if left <= 0 {
			return nil
		}
		if err := backoff.Sleep(j.ctx, left); err != nil {
			return err
		}
	}
}

// heeded returns when every process has heard that the group's slots are about to move, or asks the shards because its
// map is too old.
func (j *Job) heeded(g *group) error {
	for _, a := range j.heard {
		if a.moves >= g.end {
			return j.outwait(a.at)
		}
	}
	return fmt.Errorf("shard: moves up to %d were not announced", g.end)
}

// grace is between the last hand-over and the first row that is deleted.
func (j *Job) grace() error {
	if err := j.enter(PhaseGrace); err != nil {
		return err
	}
	if err := j.outwait(j.entered); err != nil {
		return err
	}
	return j.c.quiesce(j.ctx, 10*j.c.opts.Lease)
}
