package shard

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// MariaDB is the dialect of MariaDB 10.6 and later with InnoDB, for the driver github.com/go-sql-driver/mysql. Not
// tested with MySQL.
//
// The guards are permanent BEFORE triggers that read the slot's state with LOCK IN SHARE MODE, which is the latest
// state whatever the isolation level: a fence waits for writers in flight, and later ones see it. DDL ends transactions
// in this database, so the triggers are made before a slot's state changes, not with it. What is weaker than in
// PostgreSQL: each write pays for the lookup of its slot's state, with or without a move; lock timeouts are in whole
// seconds, so a fence makes writers wait for up to one; TRUNCATE and cascades of foreign keys fire no triggers and are
// not noticed (the verification behind the fence compares what was written to, and stops a move that they made wrong);
// binlog_format must be ROW or MIXED; keys must not be binary, tables need no unique index beside the key that rows of
// different slots could clash on.
func MariaDB() Dialect { return mariadb{} }

type mariadb struct{ lockedNotes }

func (mariadb) Name() string { return "mariadb" }

// IsFenced is also true for 1146 about a state table: MariaDB answers that now and then to a statement that meets the
// creation of the triggers. Either way the statement did nothing.
func (mariadb) IsFenced(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "tierkit: slot") || strings.Contains(text, "Error 1146 ") &&
		strings.Contains(text, ".tk_")
}

// IsRetryable: deadlock, lock wait timeout, record changed since last read, table definition changed.
func (mariadb) IsRetryable(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	for _, n := range []string{"1213", "1205", "1020", "1412"} {
		if strings.Contains(text, "Error "+n+" ") {
			return true
		}
	}
	return false
}

var (
	onConflict = regexp.MustCompile(`\s+on conflict \([^)]*\) do (nothing|update set (.*))$`)
	excluded   = regexp.MustCompile(`excluded\.(\w+)`)
)

// bind also writes "on conflict" as MariaDB has it.
func (mariadb) bind(q string) string {
	m := onConflict.FindStringSubmatchIndex(q)
	if m == nil {
		return q
	}
	if m[4] < 0 {
		return strings.Replace(q[:m[0]], "insert into", "insert ignore into", 1)
	}
	return q[:m[0]] + " on duplicate key update " + excluded.ReplaceAllString(q[m[4]:m[5]], "values($1)")
}

func (mariadb) quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }
func (mariadb) textKey() string          { return "varchar(191)" }
func (mariadb) longText() string         { return "longtext" }
func (mariadb) ddlInTx() bool            { return false }

func (mariadb) slotList(slots []Slot) string { return "[" + joinSlots(slots) + "]" }
func (mariadb) inSlots(col string, _ int) string {
	return col + ` in (select tk_s from json_table(?, '$[*]' columns (tk_s int path '$')) tk_j)`
}

func (mariadb) slotState(ctx context.Context, tx *sql.Tx, s Slot, by []string, readOnly bool) (at slotRow, err error) {
	lock := ""
	if !readOnly { // held until the end
		lock = ` lock in share mode`
	}
	err = tx.QueryRowContext(ctx, `select state, since from tk_slot where slot = ?`+lock, int(s)).Scan(&at.state,
		&at.since)
	if errors.Is(err, sql.ErrNoRows) {
		return slotRow{state: stateGone}, nil
	}
	if err != nil {
		return at, err
	}
	rows, err := tx.QueryContext(ctx, "select `by` from tk_pin where hashed = ?"+lock, int(s))
	if err != nil {
		return at, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return at, err
		}
		if text == jsonStrings(by) {
			at.state = stateGone // to a slot that the caller's map does not know
		}
	}
	return at, rows.Err()
}

func (d mariadb) prepare(ctx context.Context, tx *sql.Tx, slots int, owned []Slot) error {
	var n int
	if err := tx.QueryRowContext(ctx, `select count(*) from information_schema.tables where table_schema = database() and table_name = 'tk_job'`).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		for _, q := range []string{
			`create table if not exists tk_slot (slot int primary key, state varchar(16) not null, since bigint not null default 0) engine=innodb`,
			`create table if not exists tk_mover (id int primary key, token bigint not null) engine=innodb`,
			`create table if not exists tk_dirty (seq bigint auto_increment primary key, tbl varchar(191) not null, slot int not null, pk longtext character set utf8mb4 collate utf8mb4_bin not null) engine=innodb`,
			"create table if not exists tk_pin (hashed int not null, `by` varchar(512) character set utf8mb4 collate utf8mb4_bin not null, slot int not null, primary key (hashed, `by`)) engine=innodb",
			`create table if not exists tk_job (job varchar(64), tbl varchar(191), place longtext character set utf8mb4 not null, primary key (job, tbl)) engine=innodb`,
			`insert ignore into tk_mover values (1, 0)`,
		} {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	if err := tx.QueryRowContext(ctx, `select count(*) from tk_slot`).Scan(&n); err != nil || n >= slots {
		return err
	}
	mine := map[Slot]bool{}
	for _, s := range owned {
		mine[s] = true
	}
	var b strings.Builder
	for s := range Slot(slots) {
		state := stateGone
		if mine[s] {
			state = stateOwned
		}
		fmt.Fprintf(&b, "(%d, '%s'),", s, state)
		if s%2000 == 1999 || int(s) == slots-1 {
			if _, err := tx.ExecContext(ctx, `insert ignore into tk_slot (slot, state) values `+
				strings.TrimSuffix(b.String(), ",")); err != nil {
				return err
			}
			b.Reset()
		}
	}
	return nil
}

// begin marks the connection with a user variable, which commit and abort take back: the transaction must end by one of
// them, and by no context, or the mark would stay on a connection of the pool.
func (d mariadb) begin(ctx context.Context, db *sql.DB, token uint64, lockTimeout time.Duration) (*sql.Tx, error) {
	tx, err := db.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return nil, err
	}
	var have uint64
	_, err = tx.ExecContext(ctx, fmt.Sprintf(`set @tk_mover = 1, session innodb_lock_wait_timeout = %d`,
		max(1, int(lockTimeout.Seconds()))))
	if err == nil {
		err = tx.QueryRowContext(ctx, `select token from tk_mover where id = 1 for update`).Scan(&have)
	}
	if err == nil && have > token {
		err = ErrMoverLost
	}
	if err == nil && have < token {
		_, err = tx.ExecContext(ctx, `update tk_mover set token = ? where id = 1`, int64(token))
	}
	if err != nil {
		d.abort(tx)
		return nil, err
	}
	return tx, nil
}

const mariadbUnmark = `set @tk_mover = null, session innodb_lock_wait_timeout = default`

func (d mariadb) commit(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, mariadbUnmark); err != nil {
		return err
	}
	return tx.Commit()
}

func (mariadb) abort(tx *sql.Tx) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel() // when the time is up the driver closes the connection, and the mark with it
	_, _ = tx.ExecContext(ctx, mariadbUnmark)
	_ = tx.Rollback()
}

func (mariadb) columns(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error) {
	rows, err := tx.QueryContext(ctx, `select column_name, column_type from information_schema.columns
where table_schema = database() and table_name = ? and is_generated = 'NEVER' order by ordinal_position`, t.Name)
	return readColumns(t, rows, err)
}

func (d mariadb) describe(ctx context.Context, tx *sql.Tx, t Table) (*tableInfo, error) {
	info, err := d.columns(ctx, tx, t)
	if err != nil {
		return nil, err
	}
	if err := info.findKeys(); err != nil {
		return nil, err
	}
	for _, k := range info.keys {
		if strings.Contains(k.typ, "binary") || strings.Contains(k.typ, "blob") {
			return nil, fmt.Errorf("%w: key column %s.%s is binary", ErrPreflight, t.Name, k.name)
		}
	}
	want := make([]string, len(info.keys))
	for i, k := range info.keys {
		want[i] = k.name
	}
	rows, err := tx.QueryContext(ctx, `select non_unique, group_concat(column_name order by seq_in_index) from information_schema.statistics where table_schema = database() and table_name = ? group by index_name, non_unique`, t.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	unique, indexed := false, false
	for rows.Next() {
		var many bool
		var cols string
		if err := rows.Scan(&many, &cols); err != nil {
			return nil, err
		}
		have := strings.Split(cols, ",")
		unique = unique || !many && sameNames(have, want)
		indexed = indexed || strings.EqualFold(have[0], t.SlotColumn)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if !unique {
		return nil, fmt.Errorf("%w: table %s has no primary key or unique index on %v", ErrPreflight, t.Name, t.Key)
	}
	if !indexed {
		return nil, fmt.Errorf("%w: table %s has no index that begins with %s", ErrPreflight, t.Name, t.SlotColumn)
	}
	return info, nil
}

func sameNames(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		found := false
		for _, y := range b {
			found = found || strings.EqualFold(x, y)
		}
		if !found {
			return false
		}
	}
	return true
}

func (mariadb) lockTables(context.Context, *sql.Tx, []*tableInfo) error { return nil }
func (mariadb) guards(context.Context, *sql.Tx, []*tableInfo) error     { return nil }
func (mariadb) snapshot(context.Context, *sql.Tx) error                 { return nil } // REPEATABLE READ is the default
func (mariadb) lockReferences(ctx context.Context, tx *sql.Tx) error {
	var n int64
	return tx.QueryRowContext(ctx, `select token from tk_mover where id = 1 for update`).Scan(&n)
}

// install makes the guards that are missing. CREATE TRIGGER waits for all transactions that have used the table, so
// afterwards every writer has them.
func (d mariadb) install(ctx context.Context, db *sql.DB, tables []*tableInfo) error {
	for _, t := range tables {
		slot := d.quote(t.SlotColumn)
		act := func(r string) string {
			same := []string{"hashed = " + r + "." + slot}
			for i, c := range t.by {
				same = append(same, fmt.Sprintf(
					"json_value(`by`, '$[%d]') = cast(%s.%s as char character set utf8mb4) collate utf8mb4_bin", i, r,
					d.quote(c.name)))
			}
			return `set st = null;
select state into st from tk_slot where slot = ` + r + `.` + slot + ` lock in share mode;
if st is null or st not in ('owned', 'capture') then signal sqlstate '45000' set message_text = 'tierkit: slot is being moved or lives elsewhere'; end if;
if exists (select 1 from tk_pin where ` + strings.Join(same, " and ") + `) then signal sqlstate '45000' set message_text = 'tierkit: slot of a pinned key'; end if;
if st = 'capture' then insert into tk_dirty (tbl, slot, pk) values (` + literal(t.Name) + `, ` + r + `.` + slot + `, json_array(` + d.names(t.keys, r+".") + `)); end if;
`
		}
		for op, body := range map[string]string{"insert": act("new"), "update": act("old") + act("new"),
			"delete": act("old")} {
			name := strings.ReplaceAll(pgFunction(op, t.Name), `"`, "`")
			var n int
			if err := db.QueryRowContext(ctx,
				`select count(*) from information_schema.triggers where trigger_schema = database() and trigger_name = ?`, strings.Trim(name, "`")).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				continue
			}
			q := `create trigger if not exists ` + name + ` before ` + op + ` on ` + t.Name +
				` for each row begin declare st varchar(16) default null; if @tk_mover is null then ` + body +
				` end if; end`
			if _, err := db.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d mariadb) setState(ctx context.Context, tx *sql.Tx, slots []Slot, state string) error {
	vals := make([]string, len(slots))
	for i, s := range slots {
		vals[i] = fmt.Sprintf("(%d, '%s')", s, state)
	}
	_, err := tx.ExecContext(ctx, `insert into tk_slot (slot, state) values `+strings.Join(vals, ",")+
		` on duplicate key update state = values(state)`)
	return err
}

func (d mariadb) own(ctx context.Context, tx *sql.Tx, slots []Slot, state string, since uint64) error {
	_, err := tx.ExecContext(ctx, `update tk_slot set state = ?, since = ? where slot in (`+joinSlots(slots)+`)`, state,
		int64(since))
	return err
}

func (mariadb) touch(ctx context.Context, tx *sql.Tx, s Slot) error {
	_, err := tx.ExecContext(ctx, `update tk_slot set state = state where slot = ?`, int(s))
	return err
}

func (d mariadb) pin(ctx context.Context, tx *sql.Tx, tables []*tableInfo, old, slot Slot, by string) error {
	if _, err := tx.ExecContext(ctx, "insert ignore into tk_pin (hashed, `by`, slot) values (?, ?, ?)", int(old), by,
		int(slot)); err != nil {
		return err
	}
	var parts []string
	if err := json.Unmarshal([]byte(by), &parts); err != nil {
		return err
	}
	for _, t := range tables {
		args := []any{int(slot), int(old)}
		where := d.quote(t.SlotColumn) + ` = ?`
		for i, c := range t.by {
			where += ` and cast(` + d.quote(c.name) + ` as char character set utf8mb4) collate utf8mb4_bin = ?`
			args = append(args, parts[i])
		}
		if _, err := tx.ExecContext(ctx, `update `+t.Name+` set `+d.quote(t.SlotColumn)+` = ? where `+where,
			args...); err != nil {
			return err
		}
	}
	return nil
}

func (d mariadb) names(cols []column, prefix string) string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = prefix + d.quote(c.name)
	}
	return strings.Join(out, ", ")
}

// jsonArgs are the elements of a JSON array of key values.
func jsonArgs(text string) ([]any, error) {
	vals, err := columnValues(text)
	if err != nil {
		return nil, fmt.Errorf("shard: key %s: %w", strconv.Quote(text), err)
	}
	return vals, nil
}
