package shard

import (
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/tierkit/tierkit/internal/backoff"
)

// catchUpAndVerify drains until little is left and compares checksums per slot, while writers go on. Slots that are
// being written to may differ for that reason; they are compared again behind the fence.
func (j *Job) catchUpAndVerify(g *group) error {
	if err := j.heeded(g); err != nil { // not later: what is verified now would be written to again meanwhile
		return err
	}
	if err := j.enter(PhaseCatchup); err != nil {
		return err
	}
	for range 20 {
		n, err := j.drain(g, drainMax)
		if err != nil {
			return err
		}
		if n < dirtyBatch/10 {
			break
		}
	}
	if err := j.settle(g); err != nil {
		return err
	}
	if err := j.enter(PhaseVerify); err != nil {
		return err
	}
	j.verified = map[Slot]bool{}
	for range 5 { // each round is shorter than the one before, so fewer slots are written to meanwhile
		rest := j.unverified(g)
		if len(rest) == 0 {
			break
		}
		differ, err := j.compare(g, rest)
		if err != nil {
			return err
		}
		for _, s := range rest {
			if !slices.Contains(differ, s) {
				j.verified[s] = true
			}
		}
		if _, err := j.drain(g, drainMax); err != nil { // takes back what was said of the slots it finds
			return err
		}
	}
	return nil
}

// settle makes the writers of the group lock the slots' states from now on, and waits for those that began before and
// may not have: a fence waits for who holds the lock. It keeps nobody waiting, and what is verified after it was
// settled before: j.verified says both.
func (j *Job) settle(g *group) error {
	d := j.c.opts.Dialect
	if err := j.in(g.from, func(tx *sql.Tx) error { return d.slow(j.ctx, tx, g.tables, g.slots) }); err != nil {
		return err
	}
	if err := j.crashPoint("before settle"); err != nil {
		return err
	}
	var old []string
	for n := 0; ; n++ {
		var now []string
		err := j.in(g.from, func(tx *sql.Tx) (err error) {
			if now, err = d.writing(j.ctx, tx, g.tables); err == nil {
				err = errSeen
			}
			return err
		})
		if !errors.Is(err, errSeen) {
			return err
		}
		if n == 0 {
			old = now
		}
		old = slices.DeleteFunc(old, func(id string) bool { return !slices.Contains(now, id) })
		if len(old) == 0 {
			return nil
		}
		if _, err := j.drain(g, drainMax); err != nil { // it may take as long as somebody's transaction
			return err
		}
		if err := backoff.Sleep(j.ctx, settlePolicy.Delay(n)); err != nil {
			return err
		}
	}
}

// errSeen rolls a transaction back that has changed nothing.
var errSeen = errors.New("shard: seen")

var settlePolicy = backoff.Policy{Base: time.Millisecond, Max: 100 * time.Millisecond}

func (j *Job) unverified(g *group) (rest []Slot) {
	for _, s := range g.slots {
		if !j.verified[s] {
			rest = append(rest, s)
		}
	}
	return rest
}

// compare returns the slots whose rows differ between source and target.
func (j *Job) compare(g *group, slots []Slot) (differ []Slot, err error) {
	d := j.c.opts.Dialect
	sums := func(sh *shardState) (map[Slot]string, error) {
		m := map[Slot]string{}
		return m, j.in(sh, func(tx *sql.Tx) error {
			clear(m)
			for _, t := range g.tables {
				if err := d.sums(j.ctx, tx, t, slots, m); err != nil {
					return err
				}
			}
			return nil
		})
	}
	a, err := sums(g.from)
	if err != nil {
		return nil, err
	}
	b, err := sums(g.to)
	if err != nil {
		return nil, err
	}
	for _, s := range slots {
		if a[s] != b[s] {
			differ = append(differ, s)
		}
	}
	return differ, nil
}
