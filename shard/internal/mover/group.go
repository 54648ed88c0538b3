package mover

import (
	"database/sql"
	"fmt"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// side is one of the two shards of a group.
type side struct {
	id string
	db *sql.DB
}

// group is the slots that are handed over together. Only the job's goroutine uses it.
type group struct {
	job      string
	name     string // of its places in tk_job
	at, end  int    // range of the job's moves
	from, to side
	slots    []stored.Slot
	tables   []*sqldb.Table // as the source describes them

	// verified has the slots whose rows were equal on both sides and were not written to since, as far as is known.
	// nil: this mover has not verified the group.
	verified map[stored.Slot]bool
	fencedAt time.Time // zero: no fence
	// handOverRequested: the store was asked to hand the group over, and may have done so.
	handOverRequested bool
}

func newGroup(c Cluster, js *stored.Job, at, size int) (*group, error) {
	moves := js.Moves[at : at+size]
	g := &group{job: fmt.Sprint(js.ID), name: fmt.Sprintf("%d/%d", js.ID, at), at: at, end: at + size,
		from: side{id: moves[0].From}, to: side{id: moves[0].To}}
	var err error
	if g.from.db, err = c.Shard(g.from.id); err != nil {
		return nil, err
	}
	if g.to.db, err = c.Shard(g.to.id); err != nil {
		return nil, err
	}
	for _, m := range moves {
		g.slots = append(g.slots, m.Slot)
	}
	return g, nil
}

func (g *group) unverified() (rest []stored.Slot) {
	for _, s := range g.slots {
		if !g.verified[s] {
			rest = append(rest, s)
		}
	}
	return rest
}
