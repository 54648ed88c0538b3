package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Postgres is the dialect of PostgreSQL 12 and later, with the drivers pgx (stdlib) and lib/pq. It implements Promoter.
// Make one for each cluster.
//
// Its probes learn the volatile functions from pg_proc (again every minute), so that user functions that write are
// never sent to a replica. The application's user needs no privileges; as a member of pg_monitor it also sees the
// timeline of standbys, with which a standby that follows a former primary is told apart. Promotion (through
// Node.Admin) needs a superuser, or the right to ALTER SYSTEM primary_conninfo and primary_slot_name and to execute
// pg_reload_conf and pg_promote.
func Postgres() Dialect {
	d := &postgres{}
	d.volatile.Store(&pgVolatile)
	d.grammar = grammar{
		syntax: syntax{dollarQuotes: true, nestedComments: true, escapeStrings: true},
		volatile: func(name []byte) bool {
			_, ok := (*d.volatile.Load())[string(name)]
			return ok
		},
		session: func(name []byte) bool {
			s := string(name)
			return strings.HasPrefix(s, "pg_advisory_") || strings.HasPrefix(s, "pg_try_advisory_") ||
				s == "set_config" || s == "setseed"
		},
	}
	return d
}

// pgVolatile is used until the first probe has read pg_proc: the ones that do harm in silence or fail on a standby.
var pgVolatile = set("nextval", "setval", "currval", "lastval", "pg_notify", "txid_current", "pg_current_xact_id",
	"lo_create", "lo_creat", "lo_put",
	"lo_unlink", "lo_import", "lo_from_bytea", "pg_cancel_backend", "pg_terminate_backend", "pg_reload_conf",
	"pg_switch_wal", "pg_create_restore_point",
	"pg_logical_emit_message", "dblink", "dblink_exec", "query_to_xml")

// pgHarmless are volatile by declaration only: they may run anywhere.
var pgHarmless = set("random", "random_normal", "clock_timestamp", "timeofday", "gen_random_uuid", "uuidv4", "uuidv7",
	"pg_sleep", "pg_sleep_for", "pg_sleep_until")

func set(names ...string) map[string]struct{} {
	m := make(map[string]struct{}, len(names))
	for _, n := range names {
		m[n] = struct{}{}
	}
	return m
}

type postgres struct {
	grammar  grammar
	volatile atomic.Pointer[map[string]struct{}]
	version  atomic.Uint64
	mu       sync.Mutex // guards loaded
	loaded   time.Time
}

func (d *postgres) Name() string                  { return "postgres" }
func (d *postgres) Classify(query string) Verdict { return d.grammar.classify(query) }
func (d *postgres) classVersion() uint64          { return d.version.Load() }

// pgProbe asks in one round trip. The timeline of a primary comes from the name of its present WAL file: the control
// file shows it only after the first checkpoint. The age of the last replayed transaction grows on an idle primary, so
// it counts as lag only while bytes are missing.
const pgProbe = `select pg_is_in_recovery(), (select system_identifier from pg_control_system())::text,
case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), '0/0') else pg_current_wal_flush_lsn() end - '0/0'::pg_lsn,
case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), '0/0') else pg_current_wal_flush_lsn() end - '0/0'::pg_lsn,
case when pg_is_in_recovery() then coalesce((select received_tli from pg_stat_wal_receiver), 0) else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
case when pg_is_in_recovery() then coalesce(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()), 0)::float8 else 0 end,
current_setting('synchronous_standby_names') <> '' and current_setting('synchronous_commit') in ('on', 'remote_apply', 'remote_write'),
current_setting('default_transaction_read_only') = 'on'`

func (d *postgres) Probe(ctx context.Context, c driver.Conn) (NodeState, error) {
	r, err := ask1(ctx, c, 8, pgProbe)
	if err != nil {
		return NodeState{}, err
	}
	replayed, err1 := strconv.ParseUint(r[2], 10, 64)
	received, err2 := strconv.ParseUint(r[3], 10, 64)
	timeline, err3 := strconv.ParseUint(r[4], 10, 64)
	age, err4 := strconv.ParseFloat(r[5], 64)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return NodeState{}, fmt.Errorf("replica: probe: %w", err)
	}
	st := NodeState{Role: RolePrimary, Replayed: Position{System: r[1], Timeline: timeline, Offset: replayed},
		ReplayAge: time.Duration(age * float64(time.Second)), Synchronous: isTrue(r[6]), ReadOnly: isTrue(r[7])}
	if isTrue(r[0]) {
		st.Role, st.ReadOnly = RoleReplica, false
	}
	st.Received = st.Replayed
	st.Received.Offset = max(received, replayed)
	d.learn(ctx, c)
	return st, nil
}

func isTrue(s string) bool { return s == "t" || s == "true" }

// learn reads the volatile functions, once a minute over all nodes. A failure leaves what is known.
func (d *postgres) learn(ctx context.Context, c driver.Conn) {
	d.mu.Lock()
	due := time.Since(d.loaded) > time.Minute
	if due {
		d.loaded = time.Now()
	}
	d.mu.Unlock()
	if !due {
		return
	}
	rows, err := ask(ctx, c, `select distinct lower(proname) from pg_proc where provolatile = 'v'`)
	if err != nil {
		d.mu.Lock()
		d.loaded = time.Time{}
		d.mu.Unlock()
		return
	}
	old := *d.volatile.Load()
	next := maps.Clone(old) // what was once volatile stays so: nodes may differ for a moment
	for _, r := range rows {
		if _, ok := pgHarmless[r[0]]; !ok {
			next[r[0]] = struct{}{}
		}
	}
	if len(next) != len(old) {
		d.volatile.Store(&next)
		d.version.Add(1)
	}
}

// The flush position, never the insert position: WAL that is inserted but not flushed is not sent, and a token beyond
// it may wait for ever. Only with synchronous_commit=off is the own commit not flushed yet.
func (d *postgres) Capture(ctx context.Context, c driver.Conn) (Position, error) {
	r, err := ask1(ctx, c, 2, `select case when current_setting('synchronous_commit') = 'off' then pg_current_wal_insert_lsn() else pg_current_wal_flush_lsn() end - '0/0'::pg_lsn,
('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int`)
	if err != nil {
		return Position{}, err
	}
	off, err1 := strconv.ParseUint(r[0], 10, 64)
	tli, err2 := strconv.ParseUint(r[1], 10, 64)
	return Position{Timeline: tli, Offset: off}, errors.Join(err1, err2)
}

func (d *postgres) Reached(ctx context.Context, c driver.Conn, want Position, budget time.Duration) (bool, error) {
	return poll(ctx, budget, func() (bool, error) {
		r, err := ask1(ctx, c, 2, `select pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn(), '0/0') - '0/0'::pg_lsn`)
		if err != nil {
			return false, err
		}
		off, err := strconv.ParseUint(r[1], 10, 64)
		return !isTrue(r[0]) || off >= want.Offset, err
	})
}

// Covers: a timeline of 0 is one that the user may not see; the offset decides alone then.
func (d *postgres) Covers(have, want Position) bool {
	return (have.System == want.System || want.System == "") && have.Offset >= want.Offset &&
		(have.Timeline >= want.Timeline || have.Timeline == 0)
}

func (d *postgres) Kind(err error) ErrorKind {
	switch state := sqlState(err); state {
	case "":
	case "25006":
		return KindReadOnly
	case "57P03": // the database system is starting up
		return KindRefused
	case "57P01", "57P02", "57P05": // terminated in the middle of something
		return KindLost
	case "40001", "57014":
		if strings.Contains(err.Error(), "conflict with recovery") {
			return KindConflict
		}
		return KindOther
	default:
		if strings.HasPrefix(state, "08") {
			return KindLost
		}
		return KindOther
	}
	k, _ := netKind(err)
	if k == KindOther && strings.Contains(err.Error(), "conn closed") {
		return KindLost
	}
	return k
}

func (d *postgres) lastHeard(ctx context.Context, c driver.Conn) (time.Duration, bool, error) {
	rows, err := ask(ctx, c, `select extract(epoch from clock_timestamp() - last_msg_receipt_time)::float8 from pg_stat_wal_receiver where status = 'streaming'`)
	if err != nil || len(rows) == 0 || rows[0][0] == "" {
		return 0, false, err
	}
	ago, err := strconv.ParseFloat(rows[0][0], 64)
	return time.Duration(ago * float64(time.Second)), err == nil, err
}

// Cut ends the WAL receiver. An empty primary_conninfo is kept over restarts, so a cut standby stays cut.
func (d *postgres) Cut(ctx context.Context, c driver.Conn) (NodeState, error) {
	if err := tell(ctx, c, `alter system set primary_conninfo = ''`, `select pg_reload_conf()`); err != nil {
		return NodeState{}, err
	}
	ok, err := poll(ctx, 10*time.Second, func() (bool, error) {
		r, err := ask1(ctx, c, 1, `select count(*) from pg_stat_wal_receiver`)
		return err == nil && r[0] == "0", err
	})
	if err != nil {
		return NodeState{}, err
	}
	if !ok {
		return NodeState{}, errors.New("replica: the WAL receiver did not end")
	}
	return d.Probe(ctx, c)
}

func (d *postgres) Promote(ctx context.Context, c driver.Conn) (NodeState, error) {
	r, err := ask1(ctx, c, 1, `select pg_promote(true, 30)`)
	if err != nil {
		return NodeState{}, err
	}
	if !isTrue(r[0]) {
		return NodeState{}, errors.New("replica: pg_promote did not finish in 30 s")
	}
	return d.Probe(ctx, c)
}

// Follow also clears primary_slot_name: a slot of the old primary's does not exist on the new one, and the standby
// would wait for it.
func (d *postgres) Follow(ctx context.Context, c driver.Conn, primary Node) error {
	if primary.ConnInfo == "" {
		return fmt.Errorf("replica: Node.ConnInfo of %s is empty", primary.Name)
	}
	return tell(ctx, c, `alter system set primary_slot_name = ''`,
		`alter system set primary_conninfo = '`+strings.ReplaceAll(primary.ConnInfo, "'", "''")+`'`,
		`select pg_reload_conf()`)
}

// recoverySteps for the host of the node.
func (d *postgres) recoverySteps(node, primary Node, diverged Position) []RecoveryStep {
	lsn := fmt.Sprintf("%X/%X", diverged.Offset>>32, uint32(diverged.Offset))
	return []RecoveryStep{
		{Why: "Start the server where no client can reach it, to save what only it has.",
			Command: `pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -c unix_socket_directories='$PGDATA' -c default_transaction_read_only=on" -l "$PGDATA/recovery.log" -w start`},
		{Why: "Export all its rows. Those that the new primary lacks are the ones that were lost; inserts of the others will do nothing.",
			Command: `pg_dump -h "$PGDATA" -U postgres --data-only --inserts --on-conflict-do-nothing -f diverged-rows.sql postgres`},
		{Why: "Stop it in an orderly way: pg_rewind needs a clean shutdown.",
			Command: `pg_ctl -D "$PGDATA" -m fast -w stop`},
		{Why: "Keep a record of what it wrote after " + lsn +
			", where the histories part. It ends with an error at the end of the log.",
			Command: `pg_waldump -p "$PGDATA/pg_wal" -s ` + lsn + ` > diverged-wal.txt || true`},
		{Why: "Let the new primary's control file name its timeline, else pg_rewind finds nothing to do.",
			Command: `psql "` + primary.ConnInfo + ` dbname=postgres" -c checkpoint`},
		{Why: "Rewind to the common point and make it a standby. Needs wal_log_hints or checksums.",
			Command: `pg_rewind -D "$PGDATA" -R --source-server="` + primary.ConnInfo + ` dbname=postgres"`},
		{Why: "If pg_rewind refuses, copy everything anew instead.", Fallback: true,
			Command: `rm -rf "$PGDATA"/* && pg_basebackup -D "$PGDATA" -R -X stream -c fast -d "` + primary.ConnInfo +
				`"`},
		{Why: "Start it as a standby.", Command: `pg_ctl -D "$PGDATA" -l "$PGDATA/recovery.log" -w start`},
		{Why: "Bring the lost rows back, after looking at them: rows that were deleted since come back too.",
			Command: `psql "` + primary.ConnInfo + ` dbname=postgres" -q -f diverged-rows.sql`},
	}
}
