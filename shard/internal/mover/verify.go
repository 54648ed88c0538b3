package mover

import (
	"context"
	"database/sql"
	"slices"

	"github.com/tierkit/tierkit/shard/internal/stored"
)

// verifier compares the two sides of a group.
type verifier struct {
	*work
	capture *capture
	leases  *leases
}

// catchUpAndVerify drains until little is left and compares checksums per slot, while writers go on. Slots that are
// being written to may differ for that reason; they are compared again behind the fence.
func (v *verifier) catchUpAndVerify(ctx context.Context, g *group) error {
	// Not later: what is verified now would be written to again meanwhile.
	if err := v.leases.waitAnnounced(ctx, g); err != nil {
		return err
	}
	if err := v.enter(stored.CatchUp); err != nil {
		return err
	}
	for range 20 {
		n, err := v.capture.drain(ctx, g, drainMax)
		if err != nil {
			return err
		}
		if n < dirtyBatch/10 {
			break
		}
	}
	if err := v.capture.settle(ctx, g); err != nil {
		return err
	}
	if err := v.enter(stored.Verify); err != nil {
		return err
	}
	g.verified = map[stored.Slot]bool{}
	for range 5 { // each round is shorter than the one before, so fewer slots are written to meanwhile
		rest := g.unverified()
		if len(rest) == 0 {
			break
		}
		differ, err := v.compare(ctx, g, rest)
		if err != nil {
			return err
		}
		for _, s := range rest {
			if !slices.Contains(differ, s) {
				g.verified[s] = true
			}
		}
		if _, err := v.capture.drain(ctx, g, drainMax); err != nil { // the slots it finds are not verified any more
			return err
		}
	}
	return nil
}

// compare returns the slots whose rows differ between source and target.
func (v *verifier) compare(ctx context.Context, g *group, slots []stored.Slot) (differ []stored.Slot, err error) {
	a, err := v.sums(ctx, g, g.from, slots)
	if err != nil {
		return nil, err
	}
	b, err := v.sums(ctx, g, g.to, slots)
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

func (v *verifier) sums(ctx context.Context, g *group, on side, slots []stored.Slot) (map[stored.Slot]string, error) {
	sums := map[stored.Slot]string{}
	err := v.In(ctx, on.db, func(tx *sql.Tx) error {
		clear(sums)
		for _, t := range g.tables {
			if err := v.Dialect.Sums(ctx, tx, t, slots, sums); err != nil {
				return err
			}
		}
		return nil
	})
	return sums, err
}
