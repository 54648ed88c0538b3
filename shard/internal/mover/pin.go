package mover

import (
	"context"
	"database/sql"
	"encoding/json"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// pinner gives one key a slot of its own.
type pinner struct {
	*work
	cluster Cluster
}

// pin gives the key's rows their new slot on the shard where they are. From its commit until the map names the pin,
// writes of the key are refused and repeated.
func (p *pinner) pin(ctx context.Context, pin *stored.Pin) error {
	if err := p.enter(stored.Pinning); err != nil {
		return err
	}
	db, err := p.cluster.Shard(pin.From)
	if err != nil {
		return err
	}
	by, err := json.Marshal(pin.By)
	if err != nil {
		return err
	}
	var tables []*sqldb.Table
	if err := p.In(ctx, db, func(tx *sql.Tx) (err error) {
		tables, err = p.describe(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	if err := p.Dialect.Install(ctx, db, tables); err != nil {
		return err
	}
	return p.In(ctx, db, func(tx *sql.Tx) error {
		tables, err := p.describe(ctx, tx)
		if err != nil {
			return err
		}
		if err := p.Dialect.SetState(ctx, tx, []stored.Slot{pin.Slot}, sqldb.Owned); err != nil {
			return err
		}
		if err := p.Dialect.Touch(ctx, tx, pin.Old); err != nil {
			return err
		}
		if err := p.Dialect.LockTables(ctx, tx, tables); err != nil {
			return err
		}
		row := sqldb.PinRow{Old: pin.Old, Slot: pin.Slot, By: string(by)}
		if err := p.Dialect.Pin(ctx, tx, tables, row); err != nil {
			return err
		}
		return p.Dialect.Guards(ctx, tx, tables)
	})
}
