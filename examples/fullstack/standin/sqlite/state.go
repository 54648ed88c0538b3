package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // driver "sqlite"
)

// stateTable holds how far a database has applied the log. It is written in the transaction of what it counts.
const stateTable = "_logship"

var sqliteDriver = sync.OnceValue(func() driver.Driver {
	db, err := sql.Open("sqlite", "")
	if err != nil {
		panic(err) // the driver is linked in
	}
	defer db.Close()
	return db.Driver()
})

func databaseFile(dir string) string { return filepath.Join(dir, "data.db") }

// openSQLite opens one connection. With synchronous=NORMAL a power cut loses at most what the log still has.
func openSQLite(dir string, readOnly bool) (driver.Conn, error) {
	q := url.Values{"_time_format": {"sqlite"},
		"_pragma": {"busy_timeout(5000)", "journal_mode(wal)", "synchronous(normal)", "foreign_keys(1)"}}
	if readOnly {
		q["_pragma"] = append(q["_pragma"], "query_only(1)")
	}
	return sqliteDriver().Open("file:" + databaseFile(dir) + "?" + q.Encode())
}

func run(ctx context.Context, c driver.Conn, query string, args ...driver.NamedValue) (driver.Result, error) {
	return c.(driver.ExecerContext).ExecContext(ctx, query, args)
}

func rowsOf(ctx context.Context, c driver.Conn, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.(driver.QueryerContext).QueryContext(ctx, query, args)
}

// collect reads all rows into memory, so that the connection is free again.
func collect(rows driver.Rows) (*memoryRows, error) {
	defer rows.Close()
	m := &memoryRows{cols: rows.Columns()}
	for {
		vals := make([]driver.Value, len(m.cols))
		switch err := rows.Next(vals); err {
		case nil:
			for i, v := range vals {
				if b, ok := v.([]byte); ok {
					vals[i] = append([]byte{}, b...)
				}
			}
			m.rows = append(m.rows, vals)
		case io.EOF:
			return m, nil
		default:
			return nil, err
		}
	}
}

type memoryRows struct {
	cols []string
	rows [][]driver.Value
}

func (m *memoryRows) Columns() []string { return m.cols }
func (m *memoryRows) Close() error      { return nil }
func (m *memoryRows) Next(dst []driver.Value) error {
	if len(m.rows) == 0 {
		return io.EOF
	}
	copy(dst, m.rows[0])
	m.rows = m.rows[1:]
	return nil
}

func readState(ctx context.Context, c driver.Conn) (p position, err error) {
	if _, err := run(ctx, c, "create table if not exists "+stateTable+
		" (id integer primary key check (id = 1), epoch integer not null, seq integer not null)"); err != nil {
		return p, err
	}
	if _, err := run(ctx, c, "insert or ignore into "+stateTable+" values (1, 0, 0)"); err != nil {
		return p, err
	}
	rows, err := rowsOf(ctx, c, "select epoch, seq from "+stateTable, nil)
	if err != nil {
		return p, err
	}
	m, err := collect(rows)
	if err != nil {
		return p, err
	}
	if len(m.rows) != 1 {
		return p, fmt.Errorf("sqlite: %s has %d rows", stateTable, len(m.rows))
	}
	return position{uint64(m.rows[0][0].(int64)), uint64(m.rows[0][1].(int64))}, nil
}

func writeState(ctx context.Context, c driver.Conn, p position) error {
	_, err := run(ctx, c, "update "+stateTable+" set epoch = ?, seq = ?", named(int64(p.epoch), int64(p.seq))...)
	return err
}

func named(vals ...driver.Value) []driver.NamedValue {
	out := make([]driver.NamedValue, len(vals))
	for i, v := range vals {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return out
}

// normalize makes an argument's meaning independent of this process: times lose their monotonic part and zone.
func normalize(args []driver.NamedValue) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		switch v := a.Value.(type) {
		case time.Time:
			a.Value = v.UTC().Round(0)
		case []byte:
			a.Value = append([]byte{}, v...)
		}
		out[i] = a
	}
	return out
}

// checksum hashes every table but our own, rows in the order of all their columns.
func checksum(ctx context.Context, c driver.Conn) (string, error) {
	h := sha256.New()
	ask := func(q string) (*memoryRows, error) {
		rows, err := rowsOf(ctx, c, q, nil)
		if err != nil {
			return nil, err
		}
		return collect(rows)
	}
	tables, err := ask(`select name, sql from sqlite_master where type = 'table' and name not like 'sqlite\_%' escape '\' and name <> '` + stateTable + `' order by name`)
	if err != nil {
		return "", err
	}
	for _, t := range tables.rows {
		fmt.Fprintf(h, "table %q %q\n", t[0], t[1])
		name := `"` + strings.ReplaceAll(t[0].(string), `"`, `""`) + `"`
		head, err := ask("select * from " + name + " limit 0")
		if err != nil {
			return "", err
		}
		order := make([]string, len(head.cols))
		for i := range order {
			order[i] = fmt.Sprint(i + 1)
		}
		all, err := ask("select * from " + name + " order by " + strings.Join(order, ","))
		if err != nil {
			return "", err
		}
		for _, r := range all.rows {
			fmt.Fprintf(h, "%q\n", r)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}
