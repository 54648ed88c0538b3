package shard

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
)

// isText: such columns have a character set, and are converted to the connection's and back.
func isText(c column) bool {
	for _, p := range []string{"char", "varchar", "text", "tinytext", "mediumtext", "longtext", "enum", "set", "json"} {
		if strings.HasPrefix(c.typ, p) {
			return true
		}
	}
	return false
}

// selectCols reads all but text and floating-point numbers as the bytes that the column is written with again, so that
// no driver converts anything.
func (d mariadb) selectCols(t *tableInfo) string {
	out := make([]string, len(t.cols))
	for i, c := range t.cols {
		if out[i] = d.quote(c.name); !isText(c) && !strings.HasPrefix(c.typ, "float") &&
			!strings.HasPrefix(c.typ, "double") {
			out[i] = `cast(` + out[i] + ` as binary)`
		}
	}
	return strings.Join(out, ", ")
}

func (d mariadb) query(ctx context.Context, tx *sql.Tx, t *tableInfo, slot, more, tail string, args []any) (out []row,
	next string, err error) {
	q := `select ` + d.selectCols(t) + `, ` + slot + `, json_array(` + d.names(t.keys, "") + `)` + more + ` from ` +
		t.Name + tail
	rows, err := tx.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if more != "" {
			r, err = t.scan(rows, &next)
		} else {
			r, err = t.scan(rows)
		}
		if err != nil {
			return nil, "", err
		}
		for i, c := range t.cols {
			if b, ok := r.vals[i].([]byte); ok && isText(c) {
				r.vals[i] = string(b) // bytes would be sent as binary
			}
		}
		out = append(out, r)
	}
	return out, next, rows.Err()
}

func (d mariadb) chunk(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, after string, n int) ([]row, string,
	error) {
	order := d.quote(t.SlotColumn) + ", " + d.names(t.keys, "")
	tail := ` where ` + d.quote(t.SlotColumn) + ` in (` + joinSlots(slots) + `)`
	var args []any
	if after != "" {
		vals, err := jsonArgs(after)
		if err != nil {
			return nil, "", err
		}
		args = vals
		tail += ` and (` + order + `) > (` + marks(len(vals)) + `)`
	}
	tail += ` order by ` + order + ` limit ` + strconv.Itoa(n)
	return d.query(ctx, tx, t, d.quote(t.SlotColumn), `, json_array(`+order+`)`, tail, args)
}

func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

// byKeys calls f with conditions on at most 100 keys at a time.
func (d mariadb) byKeys(t *tableInfo, pks []string, f func(where string, args []any) error) error {
	for len(pks) > 0 {
		part := pks[:min(100, len(pks))]
		pks = pks[len(part):]
		var args []any
		for _, pk := range part {
			vals, err := jsonArgs(pk)
			if err != nil {
				return err
			}
			args = append(args, vals...)
		}
		one := `(` + marks(len(t.keys)) + `)`
		if err := f(` where (`+d.names(t.keys, "")+`) in (`+
			strings.TrimSuffix(strings.Repeat(one+", ", len(part)), ", ")+`)`, args); err != nil {
			return err
		}
	}
	return nil
}

func (d mariadb) dirty(ctx context.Context, tx *sql.Tx, slots []Slot, n int) ([]dirtyKey, error) {
	return readDirty(ctx, tx, d, slots, n)
}

func (d mariadb) forget(ctx context.Context, tx *sql.Tx, keys []dirtyKey) error {
	return deleteDirty(ctx, tx, keys)
}

func (d mariadb) forgetSlots(ctx context.Context, tx *sql.Tx, slots []Slot) error {
	_, err := tx.ExecContext(ctx, `delete from tk_dirty where slot in (`+joinSlots(slots)+`)`)
	return err
}

func (d mariadb) place(ctx context.Context, tx *sql.Tx, job, table string) (string, error) {
	return places{d.bind}.place(ctx, tx, job, table)
}

func (d mariadb) setPlace(ctx context.Context, tx *sql.Tx, job, table, place string) error {
	return places{d.bind}.setPlace(ctx, tx, job, table, place)
}

func (d mariadb) dropPlaces(ctx context.Context, tx *sql.Tx, job string) error {
	return places{d.bind}.dropPlaces(ctx, tx, job)
}

func (d mariadb) current(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) (out []row, err error) {
	err = d.byKeys(t, pks, func(where string, args []any) error {
		rows, _, err := d.query(ctx, tx, t, d.quote(t.SlotColumn), "", where, args)
		out = append(out, rows...)
		return err
	})
	return out, err
}

func (d mariadb) upsert(ctx context.Context, tx *sql.Tx, t *tableInfo, rows []row) error {
	vals := t.values()
	if len(vals) == 0 {
		vals = t.keys
	}
	set := make([]string, len(vals))
	for i, c := range vals {
		set[i] = d.quote(c.name) + ` = values(` + d.quote(c.name) + `)`
	}
	one := `(` + marks(len(t.cols)) + `)`
	for len(rows) > 0 {
		part := rows[:min(100, len(rows))]
		rows = rows[len(part):]
		var args []any
		for _, r := range part {
			args = append(args, r.vals...)
		}
		q := `insert into ` + t.Name + ` (` + d.names(t.cols, "") + `) values ` +
			strings.TrimSuffix(strings.Repeat(one+", ", len(part)), ", ") + ` on duplicate key update ` +
			strings.Join(set, ", ")
		if _, err := tx.ExecContext(ctx, q, args...); err != nil {
			return err
		}
	}
	return nil
}

func (d mariadb) remove(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string) error {
	return d.byKeys(t, pks, func(where string, args []any) error {
		_, err := tx.ExecContext(ctx, `delete from `+t.Name+where, args...)
		return err
	})
}

func (d mariadb) sums(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, into map[Slot]string) error {
	slot := d.quote(t.SlotColumn)
	cols := make([]string, len(t.cols))
	for i, c := range t.cols {
		if cols[i] = `hex(cast(` + d.quote(c.name) + ` as binary))`; isText(c) {
			cols[i] = `hex(convert(` + d.quote(c.name) + ` using utf8mb4))`
		}
	}
	rows, err := tx.QueryContext(ctx, `select `+slot+`, concat(count(*), ':', sum(cast(conv(substr(md5(json_array(`+
		strings.Join(cols, ", ")+`)), 1, 15), 16, 10) as unsigned))) from `+t.Name+
		` where `+slot+` in (`+joinSlots(slots)+`) group by 1`)
	return readSums(t, into, rows, err)
}

func (d mariadb) clear(ctx context.Context, tx *sql.Tx, t *tableInfo, slots []Slot, n int) (int64, error) {
	res, err := tx.ExecContext(ctx, `delete from `+t.Name+` where `+d.quote(t.SlotColumn)+` in (`+joinSlots(slots)+
		`) limit `+strconv.Itoa(n))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// addSlotColumn: both changes are made in place, without keeping writers out.
func (d mariadb) addSlotColumn(ctx context.Context, db *sql.DB, t *tableInfo) error {
	col := d.quote(t.SlotColumn)
	if _, err := db.ExecContext(ctx, `alter table `+t.Name+` add column if not exists `+col+` int`); err != nil {
		return err
	}
	var indexed int
	err := db.QueryRowContext(ctx, `select count(*) from information_schema.statistics where table_schema = database() and table_name = ? and column_name = ? and seq_in_index = 1`, t.Name, t.SlotColumn).Scan(&indexed)
	if err != nil || indexed > 0 {
		return err
	}
	_, err = db.ExecContext(ctx, `create index tk_slots on `+t.Name+` (`+col+`, `+d.names(t.keys, "")+`)`)
	return err
}

func (d mariadb) requireSlot(ctx context.Context, db *sql.DB, t *tableInfo) error {
	var nullable string
	err := db.QueryRowContext(ctx, `select is_nullable from information_schema.columns where table_schema = database() and table_name = ? and column_name = ?`, t.Name, t.SlotColumn).Scan(&nullable)
	if err != nil || nullable == "NO" {
		return err
	}
	_, err = db.ExecContext(ctx, `alter table `+t.Name+` modify `+d.quote(t.SlotColumn)+` int not null, lock=none`)
	return err
}

func (d mariadb) unslotted(ctx context.Context, tx *sql.Tx, t *tableInfo, n int) (pks, by []string, err error) {
	return readUnslotted(ctx, tx, t, d.quote(t.SlotColumn), `select json_array(`+d.names(t.keys, "")+`), json_array(`+
		d.names(t.by, "")+`)`, n)
}

func (d mariadb) fillSlots(ctx context.Context, tx *sql.Tx, t *tableInfo, pks []string, slots []Slot) (total int64,
	err error) {
	col := d.quote(t.SlotColumn)
	for i, pk := range pks {
		err := d.byKeys(t, []string{pk}, func(where string, args []any) error {
			res, err := tx.ExecContext(ctx, `update `+t.Name+` set `+col+` = `+strconv.Itoa(int(slots[i]))+where+
				` and `+col+` is null`, args...)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			total += n
			return err
		})
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func (d mariadb) all(ctx context.Context, tx *sql.Tx, t *tableInfo) ([]row, error) {
	rows, _, err := d.query(ctx, tx, t, "0", "", "", nil)
	return rows, err
}

func (mariadb) bytes(ctx context.Context, db *sql.DB) (n int64, err error) {
	return n, db.QueryRowContext(ctx, `select coalesce(sum(data_length + index_length), 0) from information_schema.tables where table_schema = database()`).Scan(&n)
}
