package mover

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// fence makes the source refuse writes until the map has changed, and opens the target then.
type fence struct {
	*work
	capture  *capture
	verifier *verifier
}

// close fences the source, drains what is left, and verifies the slots that were written to since the earlier
// verification. On return the caller changes the map.
func (f *fence) close(ctx context.Context, g *group) error {
	if err := f.load(ctx, g, ErrSchemaChanged); err != nil {
		return err
	}
	if g.verified == nil { // resumed: do the long part before writers have to wait
		if err := f.setState(ctx, g.from, g, sqldb.Capture); err != nil {
			return err
		}
		if err := f.verifier.catchUpAndVerify(ctx, g); err != nil {
			return err
		}
	}
	if _, err := f.capture.drain(ctx, g, drainMax); err != nil {
		return err
	}
	if f.capture.forgotten > dirtyBatch { // not while writers wait
		f.capture.tidy(ctx, g)
	}
	if err := f.enter(stored.Fence); err != nil {
		return err
	}
	if err := f.refuseWrites(ctx, g); err != nil {
		return err
	}
	if err := f.enter(stored.Drain); err != nil {
		return err
	}
	if _, err := f.capture.drain(ctx, g, 0); err != nil {
		return err
	}
	if err := f.verifyRest(ctx, g); err != nil {
		return err
	}
	return f.enter(stored.Commit)
}

// refuseWrites waits for writers in flight: they hold the slot rows shared until they commit (settle waited for the
// others, before any slot was verified).
func (f *fence) refuseWrites(ctx context.Context, g *group) error {
	g.fencedAt = time.Now()
	return f.In(ctx, g.from.db, func(tx *sql.Tx) error {
		if err := f.Dialect.SetState(ctx, tx, g.slots, sqldb.Fenced); err != nil {
			return err
		}
		now, err := f.describe(ctx, tx) // a schema that changes rewrites rows and no trigger sees it
		if err != nil {
			return err
		}
		for i, t := range g.tables {
			if !t.SameSchema(now[i]) {
				return fmt.Errorf("%w: table %s on %s", ErrSchemaChanged, t.Name, g.from.id)
			}
		}
		return nil
	})
}

// verifyRest lets writers in again, and fails with ErrVerify, if the sides differ.
func (f *fence) verifyRest(ctx context.Context, g *group) error {
	rest := g.unverified()
	if len(rest) == 0 {
		return nil
	}
	differ, err := f.verifier.compare(ctx, g, rest)
	if err != nil || len(differ) == 0 {
		return err
	}
	g.verified = nil
	if err := f.setState(ctx, g.from, g, sqldb.Capture); err != nil {
		return err
	}
	return fmt.Errorf("%w: slots %v of %s and %s", ErrVerify, differ[:min(len(differ), 10)], g.from.id, g.to.id)
}

// abandon lets writers in again when the mover cannot go on behind the fence: because a shard does not answer, or
// because the job was stopped. Their keys are noted and drained as before. Once the store was asked to hand the group
// over it is too late: the slots may be the target's.
func (f *fence) abandon(ctx context.Context, g *group, why error) {
	if g.fencedAt.IsZero() || g.handOverRequested || errors.Is(why, ErrCrash) || errors.Is(why, sqldb.ErrMoverLost) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := f.setState(ctx, g.from, g, sqldb.Capture); err != nil {
		f.failed(fmt.Errorf("shard: slots of %s still refuse writes: %w", g.from.id, err))
		return
	}
	g.fencedAt = time.Time{}
}

// open ends the hand-over: the source refuses reads too before the target accepts writes, so that no read returns old
// rows.
func (f *fence) open(ctx context.Context, g *group, epoch uint64, reversible bool) error {
	if err := f.enter(stored.Gone); err != nil {
		return err
	}
	if err := f.setState(ctx, g.from, g, sqldb.Left); err != nil {
		return err
	}
	state := sqldb.Owned
	if reversible {
		state = sqldb.Capture
	}
	if err := f.enter(stored.Owned); err != nil {
		return err
	}
	if err := f.In(ctx, g.to.db, func(tx *sql.Tx) error {
		return f.Dialect.Own(ctx, tx, g.slots, state, epoch)
	}); err != nil {
		return err
	}
	if !g.fencedAt.IsZero() {
		pause := time.Since(g.fencedAt)
		g.fencedAt = time.Time{}
		f.progress.change(func(p *Progress) { p.WritePauses = append(p.WritePauses, pause) })
	}
	return nil
}
