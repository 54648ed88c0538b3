package mover

import (
	"context"
	"errors"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// Job works on the job that is stored in the map. Run is called once; Progress and Holding are safe for concurrent use.
type Job struct {
	cluster  Cluster
	work     *work
	progress *progress
	fatal    []error // errors that end the job

	preparer *preparer
	copier   *copier
	capture  *capture
	verifier *verifier
	fence    *fence
	keeper   *keeper
	cleaner  *cleaner
	pinner   *pinner
	leases   *leases

	// Only the goroutine of Run uses these.
	current *group       // being handed over
	phase   stored.Phase // as stored, as far as this mover knows
	entered time.Time    // since when: that phase, or this mover's work in it
}

// New returns a mover that goes on with the stored job of st, with st's token. What its predecessor had announced
// counts from now on only: it is not known since when. fatal are errors of the cluster that end a job; all others are
// repeated.
func New(c Cluster, st *stored.State, o Options, fatal ...error) *Job {
	now := time.Now()
	p := newProgress(st.Job, o)
	w := newWork(st.Token, o, p)
	j := &Job{cluster: c, work: w, progress: p, entered: now,
		fatal: append(fatal, sqldb.ErrMoverLost, sqldb.ErrPreflight, ErrVerify, ErrSchemaChanged, ErrCrash)}
	t := throttle{o.RowsPerSecond}
	j.leases = &leases{cluster: c, token: st.Token, announced: []announcement{{st.Job.Announced, now}}}
	j.capture = &capture{work: w}
	j.preparer = &preparer{work: w, cluster: c, capture: j.capture}
	j.copier = &copier{work: w, capture: j.capture, throttle: t}
	j.verifier = &verifier{work: w, capture: j.capture, leases: j.leases}
	j.fence = &fence{work: w, capture: j.capture, verifier: j.verifier}
	j.keeper = &keeper{work: w, cluster: c, capture: j.capture, held: make(chan struct{})}
	j.cleaner = &cleaner{work: w, throttle: t}
	j.pinner = &pinner{work: w, cluster: c}
	return j
}

// Progress returns where the job stands.
func (j *Job) Progress() Progress { return j.progress.status() }

// Holding is closed when all slots of a reversible job are handed over.
func (j *Job) Holding() <-chan struct{} { return j.keeper.held }

// Run drives the stored phases to the end. An error that may pass is reported in Progress and the step repeated with
// backoff; one that will not pass ends the job. When ctx ends Run returns its cause.
func (j *Job) Run(ctx context.Context) error {
	for failures := 0; ; {
		finished, err := j.advance(ctx)
		switch {
		case err == nil && finished:
			return nil
		case err == nil:
			if failures > 0 {
				j.progress.change(func(p *Progress) { p.Err = nil })
			}
			failures = 0
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case j.isFatal(err):
			return err
		default:
			failures++
			j.work.failed(err)
			j.progress.change(func(p *Progress) { p.Err = err })
			if e := backoff.Sleep(ctx, j.work.pauses.run.Delay(failures)); e != nil {
				return errors.Join(context.Cause(ctx), err)
			}
		}
	}
}

// isFatal reports whether an error ends the job.
func (j *Job) isFatal(err error) bool {
	for _, f := range j.fatal {
		if errors.Is(err, f) {
			return true
		}
	}
	return false
}

// loadOwn loads the state and notes its phase and announcements. ErrMoverLost when the job is another mover's.
func (j *Job) loadOwn(ctx context.Context) (*stored.State, error) {
	st, err := j.cluster.Load(ctx)
	if err != nil {
		return nil, err
	}
	js := st.Job
	if js == nil || js.Token != j.work.Token {
		return nil, sqldb.ErrMoverLost
	}
	// Another phase than expected: the mover is new, or the store did its work and the answer was lost.
	if js.Phase != j.phase {
		j.phase, j.entered = js.Phase, time.Now()
	}
	j.leases.announce(js.Announced)
	return st, nil
}

// save changes the stored state, as long as the job is still ours.
func (j *Job) save(ctx context.Context, change func(*stored.State) error) error {
	if err := j.work.step("before save"); err != nil {
		return err
	}
	for {
		st, err := j.cluster.Load(ctx)
		if err != nil {
			return err
		}
		if st.Job == nil || st.Job.Token != j.work.Token {
			return sqldb.ErrMoverLost
		}
		next := st.Next()
		if err := change(next); err != nil {
			return err
		}
		asked := time.Now()
		err = j.cluster.CompareAndSwap(ctx, st.Epoch, next)
		if errors.Is(err, stored.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		if err := j.cluster.Install(next, asked); err != nil {
			return err
		}
		j.entered = time.Now()
		if next.Job != nil {
			j.phase = next.Job.Phase
			if next.Job.Announced > st.Job.Announced || st.Job.Phase == stored.Pinning {
				j.leases.add(next.Job.Announced, j.entered)
			}
		}
		return j.work.step("after save")
	}
}
