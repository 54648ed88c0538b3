// Package schema keeps the tables of a shard.Cluster alike on all shards and makes them fit to be sharded: Migrate and
// Drift for one schema everywhere, FillSlots for tables that exist already, UpdateReferences for small tables that
// every shard has whole.
package schema

import (
	"fmt"

	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/dialects"
)

// database is the SQL of the cluster's shards.
func database(c *shard.Cluster) (sqldb.Database, error) {
	d := dialects.ByName(c.Dialect().Name())
	if d == nil {
		return nil, fmt.Errorf("%w: shard.Options.Dialect is needed", shard.ErrPreflight)
	}
	return d, nil
}

// spec is the table as package sqldb has it.
func spec(t shard.Table) sqldb.TableSpec {
	return sqldb.TableSpec{Name: t.Name, Key: t.Key, By: t.By, SlotColumn: t.SlotColumn}
}
