package mover

import (
	"context"
	"fmt"

	"github.com/tierkit/tierkit/shard/internal/stored"
)

// scope is what a stored phase works on.
type scope int

const (
	ofJob     scope = iota // the job as a whole
	ofGroup                // the moves that are being handed over
	ofCleanup              // the moves whose old rows are deleted next
)

// phase is one stored phase: what is done in it, and how the stored state changes when that succeeded. Each work may be
// repeated from its start, by another mover too.
type phase struct {
	of   scope
	work func(j *Job, ctx context.Context, st *stored.State, g *group) error
	next func(j *Job, st *stored.State, g *group) error
}

// phases is the table of a job's stored phases.
//
//	phase     work                                                          next
//	pin       wait for the lease; the key's rows get a slot of their own    prepare
//	prepare   target imports; source notes changed keys                     copy
//	copy      copy, catch up, settle, verify                                fence
//	fence     source refuses writes; drain; verify the rest                 gone, and the map names the new owner
//	gone      source refuses reads; target accepts writes                   prepare (the next group; on the way back
//	                                                                        fence); after the last: hold, or grace
//	hold      bring the targets' writes to the sources                      Complete: grace; Rollback: fence, reversed
//	grace     wait until no process acts on an older map                    cleanup
//	cleanup   delete the sources' rows, group by group                      cleanup, and after the last the job ends
//
// A job that is cleaned ends whatever its phase is; that is also how a pin ends that moves nothing.
var phases = map[stored.Phase]phase{
	stored.Pinning: {ofJob, (*Job).doPin, (*Job).addPin},
	stored.Prepare: {ofGroup, (*Job).doPrepare, enterNext(stored.Copy)},
	stored.Copy:    {ofGroup, (*Job).doCopy, enterNext(stored.Fence)},
	stored.Fence:   {ofGroup, (*Job).doFence, (*Job).handOver},
	stored.Gone:    {ofGroup, (*Job).doOpen, (*Job).endGroup},
	stored.Hold:    {ofJob, (*Job).doHold, nil}, // ended by another mover
	stored.Grace:   {ofCleanup, (*Job).doGrace, enterNext(stored.Cleanup)},
	stored.Cleanup: {ofCleanup, (*Job).doCleanup, (*Job).endCleanup},
}

func enterNext(p stored.Phase) func(*Job, *stored.State, *group) error {
	return func(_ *Job, st *stored.State, _ *group) error { st.Job.Phase = p; return nil }
}

func (j *Job) doPin(ctx context.Context, st *stored.State, _ *group) error {
	if err := j.leases.waitOut(ctx, j.entered); err != nil {
		return err
	}
	return j.pinner.pin(ctx, st.Job.Pin)
}

func (j *Job) addPin(st *stored.State, _ *group) error {
	p := st.Job.Pin
	if err := st.SetPin(p.Key, p.Slot, p.From); err != nil {
		return err
	}
	st.Job.NextGroup(j.work.opts.Group)
	st.Job.Phase = stored.Prepare
	return nil
}

func (j *Job) doPrepare(ctx context.Context, _ *stored.State, g *group) error {
	j.progress.change(func(p *Progress) { p.Group++ })
	g.verified = nil
	return j.preparer.prepare(ctx, g)
}

func (j *Job) doCopy(ctx context.Context, _ *stored.State, g *group) error {
	if err := j.copier.copy(ctx, g); err != nil {
		return err
	}
	return j.verifier.catchUpAndVerify(ctx, g)
}

func (j *Job) doFence(ctx context.Context, _ *stored.State, g *group) error {
	if err := j.fence.close(ctx, g); err != nil {
		j.fence.abandon(ctx, g, err)
		return err
	}
	g.handOverRequested = true
	return nil
}

// handOver is the point of no return: one compare-and-swap says which shard owns the slots.
func (j *Job) handOver(st *stored.State, g *group) error {
	for _, s := range g.slots {
		if err := st.SetOwner(s, g.to.id); err != nil {
			return err
		}
	}
	st.Job.Phase = stored.Gone
	return nil
}

func (j *Job) doOpen(ctx context.Context, st *stored.State, g *group) error {
	if err := j.fence.open(ctx, g, st.Epoch, st.Job.Reversible); err != nil {
		return err
	}
	g.verified, g.handOverRequested = nil, false
	return nil
}

func (j *Job) endGroup(st *stored.State, _ *group) error {
	js := st.Job
	js.Done += js.Size
	js.NextGroup(j.work.opts.Group)
	j.progress.change(func(p *Progress) { p.SlotsMoved = js.Done })
	switch {
	case js.Done == len(js.Moves) && js.Reversible:
		js.Phase = stored.Hold
	case js.Done == len(js.Moves):
		js.Phase = stored.Grace
	case js.Reverse:
		js.Phase = stored.Fence
	default:
		js.Phase = stored.Prepare
	}
	return nil
}

func (j *Job) doHold(ctx context.Context, st *stored.State, _ *group) error {
	return j.keeper.keep(ctx, st.Job)
}

// doGrace waits between the last hand-over and the first row that is deleted.
func (j *Job) doGrace(ctx context.Context, _ *stored.State, _ *group) error {
	if err := j.work.enter(stored.Grace); err != nil {
		return err
	}
	if err := j.leases.waitOut(ctx, j.entered); err != nil {
		return err
	}
	return j.cluster.Quiesce(ctx, 10*j.cluster.MapTTL())
}

func (j *Job) doCleanup(ctx context.Context, _ *stored.State, g *group) error {
	return j.cleaner.clean(ctx, g)
}

func (j *Job) endCleanup(st *stored.State, g *group) error {
	st.Job.Cleaned += len(g.slots)
	if st.Job.Cleaned == len(st.Job.Moves) {
		j.progress.change(func(p *Progress) { p.Phase = stored.Done })
	}
	return nil
}

// groupOf returns what the phase works on. The group that is being handed over is kept between phases, with what was
// found out about it.
func (j *Job) groupOf(of scope, js *stored.Job) (*group, error) {
	switch of {
	case ofGroup:
		if g := j.current; g == nil || g.at != js.Done || g.end != js.Done+js.Size {
			g, err := newGroup(j.cluster, js, js.Done, js.Size)
			if err != nil {
				return nil, err
			}
			j.current = g
		}
		return j.current, nil
	case ofCleanup:
		return newGroup(j.cluster, js, js.Cleaned, stored.GroupSize(js.Moves[js.Cleaned:], j.work.opts.Group))
	}
	return nil, nil
}

// advance runs one stored phase and stores the next.
func (j *Job) advance(ctx context.Context) (finished bool, err error) {
	st, err := j.loadOwn(ctx)
	if err != nil {
		return false, err
	}
	js := st.Job
	p, ok := phases[js.Phase]
	if !ok {
		return false, fmt.Errorf("shard: stored job has phase %q", js.Phase)
	}
	if js.Phase != stored.Pinning && js.Cleaned >= len(js.Moves) {
		return true, j.save(ctx, func(st *stored.State) error { st.Job = nil; st.RemoveEmptyShards(); return nil })
	}
	g, err := j.groupOf(p.of, js)
	if err != nil {
		return false, err
	}
	if err := p.work(j, ctx, st, g); err != nil {
		return false, err
	}
	return false, j.save(ctx, func(st *stored.State) error { return p.next(j, st, g) })
}
