package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// run drives the stored phases to the end. What may pass is repeated with backoff; what will not ends the job.
func (j *Job) run() error {
	for failures := 0; ; {
		finished, err := j.advance()
		switch {
		case err == nil && finished:
			return nil
		case err == nil:
			if failures > 0 {
				j.note(func(p *Progress) { p.Err = nil })
			}
			failures = 0
		case j.ctx.Err() != nil:
			return context.Cause(j.ctx)
		case errors.Is(err, ErrMoverLost), errors.Is(err, ErrVerify), errors.Is(err, ErrSchemaChanged),
			errors.Is(err, ErrPreflight),
			errors.Is(err, ErrUnknownShard), errors.Is(err, ErrNoMap), errors.Is(err, errCrash):
			return err
		default:
			failures++
			j.note(func(p *Progress) { p.Err = err })
			if e := backoff.Sleep(j.ctx, runPolicy.Delay(failures)); e != nil {
				return errors.Join(context.Cause(j.ctx), err)
			}
		}
	}
}

var runPolicy = backoff.Policy{Base: 10 * time.Millisecond, Max: time.Second}

var errCrash = errors.New("shard: crash")

// advance runs one stored phase and stores the next.
func (j *Job) advance() (finished bool, err error) {
	st, err := j.c.store.Load(j.ctx)
	if err != nil {
		return false, err
	}
	js := st.Job
	if js == nil || js.Token != j.token {
		return false, ErrMoverLost
	}
	if js.Phase != j.phase { // the mover is new, or the store did as it was told and its answer was lost
		j.phase, j.entered = js.Phase, time.Now()
	}
	if heard := j.heard[len(j.heard)-1]; js.Announced > heard.moves {
		j.heard = append(j.heard, announcement{js.Announced, time.Now()})
	}
	if js.Phase == PhasePin {
		if err := j.outwait(j.entered); err != nil {
			return false, err
		}
		if err := j.pin(js.Pin); err != nil {
			return false, err
		}
		return false, j.save(func(st *State) error {
			if st.Pins == nil {
				st.Pins, st.PinOwners = map[string]Slot{}, map[Slot]uint16{}
			}
			st.Pins[js.Pin.Key] = js.Pin.Slot
			st.PinOwners[js.Pin.Slot] = uint16(slices.Index(st.Shards, js.Pin.From))
			st.Job.nextGroup(j.opts.Group)
			return toPhase(PhasePrepare)(st)
		})
	}
	if js.Cleaned >= len(js.Moves) {
		return true, j.save(func(st *State) error { st.Job = nil; st.forgetEmpty(); return nil })
	}
	at, size := js.Done, js.Size
	if js.Phase == PhaseHold {
		return false, j.keepBoth(js)
	}
	if js.Phase == PhaseGrace || js.Phase == PhaseCleanup {
		at, size = js.Cleaned, groupSize(js.Moves[js.Cleaned:], j.opts.Group)
	}
	g, err := j.c.group(js, at, size)
	if err != nil {
		return false, err
	}
	switch js.Phase {
	case PhasePrepare:
		j.note(func(p *Progress) { p.Group++ })
		j.verified = nil
		if err := j.prepare(g); err != nil {
			return false, err
		}
		return false, j.save(toPhase(PhaseCopy))
	case PhaseCopy:
		if err := j.copy(g); err != nil {
			return false, err
		}
		if err := j.catchUpAndVerify(g); err != nil {
			return false, err
		}
		return false, j.save(toPhase(PhaseFence))
	case PhaseFence:
		if err := j.handOver(g); err != nil {
			j.giveWay(g, err)
			return false, err
		}
		j.told = true
		// The point of no return: one compare-and-swap says who owns the slots.
		return false, j.save(func(st *State) error {
			for _, s := range g.slots {
				if err := st.setOwner(s, g.to.ID); err != nil {
					return err
				}
			}
			return toPhase(PhaseGone)(st)
		})
	case PhaseGone:
		if err := j.open(g, st.Epoch, js.Reversible); err != nil {
			return false, err
		}
		j.verified, j.told = nil, false
		return false, j.save(func(st *State) error {
			st.Job.Done += st.Job.Size
			st.Job.nextGroup(j.opts.Group)
			j.note(func(p *Progress) { p.SlotsMoved = st.Job.Done })
			next := PhasePrepare
			switch {
			case st.Job.Done == len(st.Job.Moves) && st.Job.Reversible:
				next = PhaseHold
			case st.Job.Done == len(st.Job.Moves):
				next = PhaseGrace
			case st.Job.Reverse:
				next = PhaseFence
			}
			return toPhase(next)(st)
		})
	case PhaseGrace:
		if err := j.grace(); err != nil {
			return false, err
		}
		return false, j.save(toPhase(PhaseCleanup))
	case PhaseCleanup:
		if err := j.cleanup(g); err != nil {
			return false, err
		}
		return false, j.save(func(st *State) error {
			st.Job.Cleaned += len(g.slots)
			if st.Job.Cleaned == len(st.Job.Moves) {
				j.note(func(p *Progress) { p.Phase = PhaseDone })
			}
			return nil
		})
	}
	return false, fmt.Errorf("shard: stored job has phase %q", js.Phase)
}

func toPhase(p Phase) func(*State) error {
	return func(st *State) error { st.Job.Phase = p; return nil }
}

// save changes the stored state, as long as the job is still ours.
func (j *Job) save(change func(*State) error) error {
	if err := j.crashPoint("before save"); err != nil {
		return err
	}
	for {
		st, err := j.c.store.Load(j.ctx)
		if err != nil {
			return err
		}
		if st.Job == nil || st.Job.Token != j.token {
			return ErrMoverLost
		}
		next := st.clone()
		next.Epoch++
		if err := change(next); err != nil {
			return err
		}
		asked := time.Now()
		err = j.c.store.CompareAndSwap(j.ctx, st.Epoch, next)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		if err := j.c.install(next, asked); err != nil {
			return err
		}
		j.entered = time.Now()
		if next.Job != nil {
			j.phase = next.Job.Phase
		}
		if next.Job != nil && (next.Job.Announced > st.Job.Announced || st.Job.Phase == PhasePin) {
			j.heard = append(j.heard, announcement{next.Job.Announced, j.entered})
		}
		return j.crashPoint("after save")
	}
}

func (j *Job) crashPoint(name string) error {
	if j.opts.step != nil {
		return j.opts.step(name)
	}
	return nil
}
