package mover

import (
	"context"
	"database/sql"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// preparer makes both shards ready for a group.
type preparer struct {
	*work
	cluster Cluster
	capture *capture
}

// prepare makes the target refuse clients for these slots and know the mover's token; then the source begins to note
// keys.
func (p *preparer) prepare(ctx context.Context, g *group) error {
	if err := p.enter(stored.Prepare); err != nil {
		return err
	}
	for _, s := range []side{g.from, g.to} {
		if err := p.cluster.Prepare(ctx, s.id); err != nil {
			return err
		}
	}
	if err := p.load(ctx, g, sqldb.ErrPreflight); err != nil {
		return err
	}
	for _, s := range []side{g.from, g.to} {
		if err := p.Dialect.Install(ctx, s.db, g.tables); err != nil {
			return err
		}
	}
	err := p.In(ctx, g.to.db, func(tx *sql.Tx) error {
		if err := p.Dialect.SetState(ctx, tx, g.slots, sqldb.Importing); err != nil {
			return err
		}
		return p.guards(ctx, tx, g)
	})
	if err != nil {
		return err
	}
	if err := p.enter(stored.Capture); err != nil {
		return err
	}
	return p.capture.begin(ctx, g)
}
