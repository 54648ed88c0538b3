package shard

import (
	"database/sql"
	"slices"
)

// catchUpAndVerify drains until little is left and compares checksums per slot, while writers go on. Slots that are being written
// to may differ for that reason; they are compared again behind the fence.
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
