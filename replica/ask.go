package replica

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"strings"
	"time"
)

// ask runs a query on a physical connection and returns all rows as text, NULL as "".
func ask(ctx context.Context, c driver.Conn, query string) ([][]string, error) {
	p := newPhys(c)
	rows, err := p.query(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	defer p.closeStmts()
	var out [][]string
	vals := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(vals); err {
		case nil:
		case io.EOF:
			return out, nil
		default:
			return nil, err
		}
		row := make([]string, len(vals))
		for i, v := range vals {
			row[i] = text(v)
		}
		out = append(out, row)
	}
}

// ask1 wants exactly one row with at least n columns.
func ask1(ctx context.Context, c driver.Conn, n int, query string) ([]string, error) {
	rows, err := ask(ctx, c, query)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || len(rows[0]) < n {
		return nil, fmt.Errorf("replica: unexpected answer to %q", query)
	}
	return rows[0], nil
}

// columnsOf returns the first row by column name; nil when there is none.
func columnsOf(ctx context.Context, c driver.Conn, query string) (map[string]string, error) {
	p := newPhys(c)
	rows, err := p.query(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	cols := rows.Columns()
	vals := make([]driver.Value, len(cols))
	if err := rows.Next(vals); err != nil {
		if err == io.EOF {
			return nil, nil
		}
		return nil, err
	}
	m := make(map[string]string, len(cols))
	for i, col := range cols {
		m[strings.ToLower(col)] = text(vals[i])
	}
	return m, nil
}

func tell(ctx context.Context, c driver.Conn, statements ...string) error {
	p := newPhys(c)
	for _, q := range statements {
		if _, err := p.exec(ctx, q, nil); err != nil {
			return fmt.Errorf("replica: %s: %w", strings.Join(words(q, 4), " "), err) // the rest may hold a password
		}
	}
	return nil
}

func words(q string, n int) []string {
	w := strings.Fields(q)
	return w[:min(n, len(w))]
}

func text(v driver.Value) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return string(v)
	case bool:
		if v {
			return "t"
		}
		return "f"
	case time.Time:
		return v.Format(time.RFC3339Nano)
	}
	return fmt.Sprint(v)
}

// poll asks until yes, an error, or the end of the budget: at first every 500 us, then ever more rarely.
func poll(ctx context.Context, budget time.Duration, reached func() (bool, error)) (bool, error) {
	end := time.Now().Add(budget)
	for pause := 500 * time.Microsecond; ; pause = min(pause*3/2, 5*time.Millisecond) {
		ok, err := reached()
		if ok || err != nil {
			return ok, err
		}
		left := time.Until(end)
		if left <= 0 {
			return false, nil
		}
		t := time.NewTimer(min(pause, left))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false, ctx.Err()
		}
	}
}
