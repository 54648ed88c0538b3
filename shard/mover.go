package shard

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// group is the slots that are handed over together.
type group struct {
	job      string
	name     string // of its places in tk_job
	end      int    // index in the job's moves
	from, to *shardState
	slots    []Slot
	tables   []*tableInfo // as the source describes them
}

func (c *Cluster) group(js *JobState, at, size int) (*group, error) {
	moves := js.Moves[at : at+size]
	g := &group{job: fmt.Sprint(js.ID), name: fmt.Sprintf("%d/%d", js.ID, at), end: at + size}
	var err error
	if g.from, err = c.shard(moves[0].From); err != nil {
		return nil, err
	}
	if g.to, err = c.shard(moves[0].To); err != nil {
		return nil, err
	}
	for _, m := range moves {
		g.slots = append(g.slots, m.Slot)
	}
	return g, nil
}

// prepareShard makes the state tables of a shard.
func (c *Cluster) prepareShard(ctx context.Context, s *shardState) error {
	d := c.opts.Dialect
	err := c.insist(ctx, func() error {
		return inTx(ctx, s.DB, func(tx *sql.Tx) error {
			return d.prepare(ctx, tx, c.view.Load().Slots(), c.view.Load().owned(s.ID))
		})
	})
	if err != nil {
		return fmt.Errorf("shard: prepare %s: %w", s.ID, err)
	}
	return nil
}

// insist repeats what failed by something that passes, as lock timeouts do, with growing pauses in which writers get
// on.
func (c *Cluster) insist(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil || !c.opts.Dialect.IsRetryable(err) || n >= 50 {
			return err
		}
		if err := backoff.Sleep(ctx, retryPolicy.Delay(n)); err != nil {
			return err
		}
	}
}

// Guard installs the guard triggers on all shards, so that rows of slots that live elsewhere are refused from the
// beginning and not only from the first move on. Call it after the tables were made; it is safe to repeat.
func (c *Cluster) Guard(ctx context.Context) error {
	j := &Job{c: c, opts: MoveOptions{LockTimeout: 200 * time.Millisecond}, ctx: ctx, token: c.view.Load().st.Token}
	for _, sh := range c.view.Load().dbs {
		var infos []*tableInfo
		err := j.in(sh, func(tx *sql.Tx) (err error) {
			if infos, err = j.describe(tx); err != nil {
				return err
			}
			d := c.opts.Dialect
			if err := d.lockTables(ctx, tx, infos); err != nil {
				return err
			}
			return d.guards(ctx, tx, infos)
		})
		if err == nil {
			err = c.opts.Dialect.install(ctx, sh.DB, infos)
		}
		if err != nil {
			return fmt.Errorf("shard: guard %s: %w", sh.ID, err)
		}
	}
	return nil
}

// in runs f in a mover's transaction on a shard.
func (j *Job) in(sh *shardState, f func(tx *sql.Tx) error) error {
	d := j.c.opts.Dialect
	return j.c.insist(j.ctx, func() error {
		tx, err := d.begin(j.ctx, sh.DB, j.token, j.opts.LockTimeout)
		if err != nil {
			return err
		}
		if err = f(tx); err == nil {
			err = d.commit(j.ctx, tx)
		}
		if err != nil {
			d.abort(tx)
		}
		return err
	})
}

func (j *Job) describe(tx *sql.Tx) ([]*tableInfo, error) {
	var infos []*tableInfo
	for _, t := range j.c.opts.Tables {
		info, err := j.c.opts.Dialect.describe(j.ctx, tx, t)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// load describes the tables on both sides and refuses when they differ.
func (j *Job) load(g *group, mismatch error) error {
	var there []*tableInfo
	if err := j.in(g.to, func(tx *sql.Tx) (err error) { there, err = j.describe(tx); return err }); err != nil {
		return err
	}
	if err := j.in(g.from, func(tx *sql.Tx) (err error) { g.tables, err = j.describe(tx); return err }); err != nil {
		return err
	}
	for i, t := range g.tables {
		if !t.sameSchema(there[i]) {
			return fmt.Errorf("%w: table %s on %s: %s on %s: %s", mismatch, t.Name, g.from.ID, t.fingerprint(), g.to.ID,
				there[i].fingerprint())
		}
	}
	return nil
}

func (j *Job) enter(p Phase) error {
	j.note(func(pr *Progress) { pr.Phase = p })
	return j.crashPoint("before " + string(p))
}

// prepare: the target refuses clients for these slots and knows the mover's token, then the source begins to note keys.
func (j *Job) prepare(g *group) error {
	if err := j.enter(PhasePrepare); err != nil {
		return err
	}
	d := j.c.opts.Dialect
	for _, sh := range []*shardState{g.from, g.to} {
		if err := j.c.prepareShard(j.ctx, sh); err != nil {
			return err
		}
	}
	if err := j.load(g, ErrPreflight); err != nil {
		return err
	}
	for _, sh := range []*shardState{g.from, g.to} {
		if err := d.install(j.ctx, sh.DB, g.tables); err != nil {
			return err
		}
	}
	err := j.in(g.to, func(tx *sql.Tx) error {
		if err := d.setState(j.ctx, tx, g.slots, stateImporting); err != nil {
			return err
		}
		if err := d.lockTables(j.ctx, tx, g.tables); err != nil {
			return err
		}
		return d.guards(j.ctx, tx, g.tables)
	})
	if err != nil {
		return err
	}
	if err := j.enter(PhaseCapture); err != nil {
		return err
	}
	// Slot rows before tables, as Tx has it, or each would wait for the other. The table lock waits for writers that
	// began before the guard was there; the changed slot rows make those with an older snapshot fail instead of writing
	// unnoticed.
	return j.in(g.from, func(tx *sql.Tx) error {
		if err := d.setState(j.ctx, tx, g.slots, stateCapture); err != nil {
			return err
		}
		if err := d.lockTables(j.ctx, tx, g.tables); err != nil {
			return err
		}
		if err := d.hasten(j.ctx, tx, g.slots); err != nil {
			return err
		}
		return d.guards(j.ctx, tx, g.tables)
	})
}
