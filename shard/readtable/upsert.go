package readtable

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/tierkit/tierkit/internal/sqltable"
	"github.com/tierkit/tierkit/shard"
	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

const (
	createReadTable = `{table} (
  row_key {text} primary key,
  version bigint not null,
  deleted int not null,
  data {blob} not null
)`

	upsertOnConflict = `
insert into {t} (row_key, version, deleted, data)
values (?, ?, ?, ?)
on conflict (row_key) do update
set version = excluded.version, deleted = excluded.deleted, data = excluded.data
where excluded.version > {t}.version`

	// Assignments are made from left to right, so the version comes last.
	upsertOnDuplicate = `
insert into {t} (row_key, version, deleted, data)
values (?, ?, ?, ?)
on duplicate key update
  deleted = if(values(version) > version, values(deleted), deleted),
  data = if(values(version) > version, values(data), data),
  version = greatest(version, values(version))`
)

// UpsertInto returns an Options.Apply for a table (row_key, version, deleted, data) in a database, which it creates:
// one statement a change, which leaves newer rows alone. The dialect is that database's.
func UpsertInto(ctx context.Context, db *sql.DB, d shard.Dialect,
	table string) (func(context.Context, []Change) error, error) {
	if err := sqltable.CheckName(table); err != nil {
		return nil, fmt.Errorf("readtable: UpsertInto: %w", err)
	}
	if _, err := outboxDialect(d); err != nil {
		return nil, fmt.Errorf("readtable: UpsertInto: %w", err)
	}
	text, blob, upsert := "text", "blob", upsertOnConflict
	switch d.Name() {
	case "postgres":
		blob = "bytea"
	case "mariadb":
		text, blob, upsert = "varchar(255)", "longblob", upsertOnDuplicate
	}
	ddl := sqldb.Fill(createReadTable, "table", table, "text", text, "blob", blob)
	if err := sqldb.CreateTable(ctx, db, ddl); err != nil {
		return nil, fmt.Errorf("readtable: UpsertInto %s: %w", table, err)
	}
	upsert = sqltable.Statement(upsert, table, d.Name() == "postgres")
	return func(ctx context.Context, changes []Change) error {
		for _, ch := range changes {
			deleted := 0
			if ch.Deleted {
				deleted = 1
			}
			data := ch.Data
			if data == nil {
				data = []byte{}
			}
			if _, err := db.ExecContext(ctx, upsert, ch.Key, ch.Version, deleted, data); err != nil {
				return fmt.Errorf("readtable: %s: key %q: %w", table, ch.Key, err)
			}
		}
		return nil
	}, nil
}
