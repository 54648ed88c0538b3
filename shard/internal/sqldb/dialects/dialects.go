// Package dialects finds the SQL of a database by its name.
package dialects

import (
	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/mariadb"
	"github.com/tierkit/tierkit/shard/internal/sqldb/postgres"
	"github.com/tierkit/tierkit/shard/internal/sqldb/sqlite"
)

// ByName returns the database called "postgres", "mariadb" or "sqlite", or nil.
func ByName(name string) sqldb.Database {
	switch name {
	case "postgres":
		return postgres.New()
	case "mariadb":
		return mariadb.New()
	case "sqlite":
		return sqlite.New()
	}
	return nil
}
