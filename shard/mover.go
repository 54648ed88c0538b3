package shard

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
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

// prepareShard makes the state tables of a shard, and its guards for those tables that exist already.
func (c *Cluster) prepareShard(ctx context.Context, s *shardState) error {
	d := c.opts.Dialect
	tx, err := s.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := d.prepare(ctx, tx, c.view.Load().Slots(), c.view.Load().owned(s.ID)); err != nil {
		return fmt.Errorf("shard: prepare %s: %w", s.ID, err)
	}
	return tx.Commit()
}

// Guard installs the guard triggers on all shards, so that rows of slots that live elsewhere are refused from the beginning and not
// only from the first move on. Call it after the tables were made; it is safe to repeat.
func (c *Cluster) Guard(ctx context.Context) error {
	j := &Job{c: c, opts: MoveOptions{LockTimeout: 200 * time.Millisecond}, ctx: ctx, token: c.view.Load().st.Token}
	for _, sh := range c.view.Load().dbs {
		err := j.in(sh, func(tx *sql.Tx) error {
			infos, err := j.describe(tx)
			if err != nil {
				return err
			}
			d := c.opts.Dialect
			if err := d.lockTables(ctx, tx, infos); err != nil {
				return err
			}
			return d.guards(ctx, tx, infos)
		})
		if err != nil {
			return fmt.Errorf("shard: guard %s: %w", sh.ID, err)
		}
	}
	return nil
}

// in runs f in a mover's transaction on a shard. Lock timeouts are repeated with growing pauses in which writers get on.
func (j *Job) in(sh *shardState, f func(tx *sql.Tx) error) error {
	d := j.c.opts.Dialect
	for n := 0; ; n++ {
		err := func() error {
			tx, err := d.begin(j.ctx, sh.DB, j.token, j.opts.LockTimeout)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if err := f(tx); err != nil {
				return err
			}
			return d.commit(j.ctx, tx)
		}()
		if err == nil || !d.IsRetryable(err) || n >= 50 {
			return err
		}
		t := time.NewTimer(retryPolicy.Delay(n))
		select {
		case <-t.C:
		case <-j.ctx.Done():
			t.Stop()
			return j.ctx.Err()
		}
	}
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
			return fmt.Errorf("%w: table %s on %s: %s on %s: %s", mismatch, t.Name, g.from.ID, t.fingerprint(), g.to.ID, there[i].fingerprint())
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
	// Slot rows before tables, as Tx has it, or each would wait for the other. The table lock waits for writers that began before the guard was there; the changed slot rows make those with an older
	// snapshot fail instead of writing unnoticed.
	return j.in(g.from, func(tx *sql.Tx) error {
		if err := d.setState(j.ctx, tx, g.slots, stateCapture); err != nil {
			return err
		}
		if err := d.lockTables(j.ctx, tx, g.tables); err != nil {
			return err
		}
		return d.guards(j.ctx, tx, g.tables)
	})
}

// copy walks the rows by key. Where it is stands in the target, in the transaction of the rows.
func (j *Job) copy(g *group) error {
	if err := j.load(g, ErrSchemaChanged); err != nil {
		return err
	}
	d := j.c.opts.Dialect
	if err := j.enter(PhaseCopy); err != nil {
		return err
	}
	const end = "end"
	for _, t := range g.tables {
		place := ""
		err := j.in(g.to, func(tx *sql.Tx) error {
			rows, err := tx.QueryContext(j.ctx, d.bind(`select place from tk_job where job = ? and tbl = ?`), g.name, t.Name)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				if err := rows.Scan(&place); err != nil {
					return err
				}
			}
			return rows.Err()
		})
		if err != nil {
			return err
		}
		for place != end {
			began := time.Now()
			var rows []row
			next := ""
			if err := j.in(g.from, func(tx *sql.Tx) (err error) {
				rows, next, err = d.chunk(j.ctx, tx, t, g.slots, place, j.opts.Chunk)
				return err
			}); err != nil {
				return err
			}
			if len(rows) < j.opts.Chunk {
				next = end
			}
			if err := j.crashPoint("mid copy"); err != nil {
				return err
			}
			err := j.in(g.to, func(tx *sql.Tx) error {
				if err := d.upsert(j.ctx, tx, t, rows); err != nil {
					return err
				}
				_, err := tx.ExecContext(j.ctx, d.bind(`insert into tk_job (job, tbl, place) values (?, ?, ?) on conflict (job, tbl) do update set place = excluded.place`), g.name, t.Name, next)
				return err
			})
			if err != nil {
				return err
			}
			place = next
			j.note(func(p *Progress) { p.RowsCopied += int64(len(rows)) })
			if _, err := j.drain(g, 1); err != nil { // keeps the list of dirty keys short
				return err
			}
			if err := j.throttle(len(rows), began); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *Job) throttle(rows int, began time.Time) error {
	if j.opts.RowsPerSecond <= 0 {
		return j.ctx.Err()
	}
	wait := time.Duration(rows)*time.Second/time.Duration(j.opts.RowsPerSecond) - time.Since(began)
	if wait <= 0 {
		return j.ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}

const (
	// dirtyBatch entries are read at a time; a hot key is in many of them and is copied once.
	dirtyBatch = 1000
	// drainMax batches are brought over at a time while writers may write faster than that.
	drainMax = 10
)

// drain brings keys that changed on the source to the target: it reads what they are now (not what happened to them), so that
// order and repetition do not matter, and then deletes exactly the entries it read. A cursor over seq would skip transactions that
// took a low number and committed late. It runs at most max batches (0: until none is left, which only a fence guarantees to come)
// and returns how many entries it found.
func (j *Job) drain(g *group, max int) (total int, err error) {
	d := j.c.opts.Dialect
	for batch := 0; max == 0 || batch < max; batch++ {
		var keys []dirtyKey
		now := map[string][]row{}
		gone := map[string][]string{}
		err := j.in(g.from, func(tx *sql.Tx) error {
			keys, now, gone = nil, map[string][]row{}, map[string][]string{}
			var err error
			if keys, err = d.dirty(j.ctx, tx, g.slots, dirtyBatch); err != nil {
				return err
			}
			for _, t := range g.tables {
				var pks []string
				seen := map[string]bool{}
				for _, k := range keys {
					if k.table == t.Name && !seen[k.pk] {
						seen[k.pk] = true
						pks = append(pks, k.pk)
					}
				}
				if len(pks) == 0 {
					continue
				}
				have, err := d.current(j.ctx, tx, t, pks)
				if err != nil {
					return err
				}
				for _, r := range have {
					if slices.Contains(g.slots, r.slot) { // else its slot was changed: it does not belong to the target any more
						now[t.Name] = append(now[t.Name], r)
						delete(seen, r.pk)
					}
				}
				for pk := range seen {
					gone[t.Name] = append(gone[t.Name], pk)
				}
			}
			return nil
		})
		if err != nil || len(keys) == 0 {
			return total, err
		}
		if err := j.crashPoint("mid drain"); err != nil {
			return total, err
		}
		err = j.in(g.to, func(tx *sql.Tx) error {
			for _, t := range slices.Backward(g.tables) { // children before parents
				if err := d.remove(j.ctx, tx, t, gone[t.Name]); err != nil {
					return err
				}
			}
			for _, t := range g.tables {
				if err := d.upsert(j.ctx, tx, t, now[t.Name]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return total, err
		}
		err = j.in(g.from, func(tx *sql.Tx) error { return d.forget(j.ctx, tx, keys) })
		if err != nil {
			return total, err
		}
		for _, k := range keys {
			delete(j.verified, k.slot)
		}
		total += len(keys)
		if len(keys) < dirtyBatch {
			break
		}
	}
	return total, nil
}

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

// handOver fences the source, drains what is left, and verifies what the earlier verification could not vouch for. On return
// the caller changes the map.
func (j *Job) handOver(g *group) error {
	d := j.c.opts.Dialect
	if err := j.load(g, ErrSchemaChanged); err != nil {
		return err
	}
	if j.verified == nil { // resumed: do the long part before writers have to wait
		if err := j.in(g.from, func(tx *sql.Tx) error { return d.setState(j.ctx, tx, g.slots, stateCapture) }); err != nil {
			return err
		}
		if err := j.catchUpAndVerify(g); err != nil {
			return err
		}
	}
	if _, err := j.drain(g, drainMax); err != nil {
		return err
	}
	if err := j.enter(PhaseFence); err != nil {
		return err
	}
	j.fencedAt = time.Now()
	// Waits for writers in flight: they hold the slot rows shared until they commit.
	if err := j.in(g.from, func(tx *sql.Tx) error { return d.setState(j.ctx, tx, g.slots, stateFenced) }); err != nil {
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
			if err := j.in(g.from, func(tx *sql.Tx) error { return d.setState(j.ctx, tx, g.slots, stateCapture) }); err != nil {
				return err
			}
			return fmt.Errorf("%w: slots %v of %s and %s", ErrVerify, differ[:min(len(differ), 10)], g.from.ID, g.to.ID)
		}
	}
	return j.enter(PhaseCommit)
}

// open ends the hand-over: the source refuses reads too before the target accepts writes, so nobody reads what is already old.
func (j *Job) open(g *group, epoch uint64) error {
	d := j.c.opts.Dialect
	if err := j.enter(PhaseGone); err != nil {
		return err
	}
	if err := j.in(g.from, func(tx *sql.Tx) error { return d.setState(j.ctx, tx, g.slots, stateLeft) }); err != nil {
		return err
	}
	if err := j.enter(PhaseOwned); err != nil {
		return err
	}
	if err := j.in(g.to, func(tx *sql.Tx) error { return d.own(j.ctx, tx, g.slots, epoch) }); err != nil {
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

// heeded returns when every process has heard that the group's slots are about to move, or asks the shards because its map is too old.
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

// cleanup deletes the source's rows in small steps and takes the target's guards off the slots that are its own now.
func (j *Job) cleanup(g *group) error {
	d := j.c.opts.Dialect
	if err := j.enter(PhaseCleanup); err != nil {
		return err
	}
	if err := j.load(g, ErrSchemaChanged); err != nil {
		return err
	}
	// An operation that is late sees this before it can miss a row.
	if err := j.in(g.from, func(tx *sql.Tx) error { return d.setState(j.ctx, tx, g.slots, stateGone) }); err != nil {
		return err
	}
	if err := j.wipe(g, g.from); err != nil {
		return err
	}
	return j.in(g.to, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(j.ctx, d.bind(`delete from tk_job where job = ? or job like ?`), g.name, g.job+"/%"); err != nil {
			return err
		}
		if err := d.lockTables(j.ctx, tx, g.tables); err != nil {
			return err
		}
		return d.guards(j.ctx, tx, g.tables)
	})
}

// wipe deletes the rows and the dirty keys of the group's slots on one side.
func (j *Job) wipe(g *group, sh *shardState) error {
	d := j.c.opts.Dialect
	for _, t := range slices.Backward(g.tables) {
		for {
			began := time.Now()
			var n int64
			if err := j.in(sh, func(tx *sql.Tx) (err error) { n, err = d.clear(j.ctx, tx, t, g.slots, j.opts.Chunk); return err }); err != nil {
				return err
			}
			if n < int64(j.opts.Chunk) {
				break
			}
			if err := j.throttle(int(n), began); err != nil {
				return err
			}
		}
	}
	return j.in(sh, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(j.ctx, `delete from tk_dirty where `+d.inSlots("slot", 1), d.slotList(g.slots))
		return err
	})
}

// undo is the way back before the commit.
func (j *Job) undo(g *group) error {
	d := j.c.opts.Dialect
	if err := j.load(g, ErrSchemaChanged); err != nil {
		return err
	}
	if err := j.in(g.to, func(tx *sql.Tx) error { return d.setState(j.ctx, tx, g.slots, stateGone) }); err != nil {
		return err
	}
	if err := j.wipe(g, g.to); err != nil {
		return err
	}
	return j.in(g.from, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(j.ctx, `delete from tk_dirty where `+d.inSlots("slot", 1), d.slotList(g.slots)); err != nil {
			return err
		}
		if err := d.setState(j.ctx, tx, g.slots, stateOwned); err != nil {
			return err
		}
		if err := d.lockTables(j.ctx, tx, g.tables); err != nil {
			return err
		}
		return d.guards(j.ctx, tx, g.tables)
	})
}
