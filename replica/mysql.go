package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MySQL is the dialect of MySQL 5.7 and later with GTID mode on, with the driver go-sql-driver/mysql. It observes and cannot promote.
// It was written from the manual and is not tested against a server; MariaDB is.
func MySQL() Dialect { return &mysql{grammar: mysqlGrammar()} }

// MariaDB is the dialect of MariaDB 10.5 and later with the driver go-sql-driver/mysql. It implements Promoter, through
// Node.Admin connections with READ_ONLY ADMIN and REPLICATION SLAVE ADMIN. The application's user must not have READ_ONLY ADMIN
// or SUPER: such users write on replicas unhindered.
//
// A node with read_only=1 is a replica, one without is a primary. MariaDB has no timelines: when a former primary comes back
// writable, this process knows it is the former one only if it promoted the other itself; else writes are refused (ErrSplitBrain). Start
// servers with read_only=1 in their configuration.
func MariaDB() Dialect { return &mariadb{mysql{grammar: mysqlGrammar()}} }

type mysql struct{ grammar grammar }

func mysqlGrammar() grammar {
	return grammar{
		sequences: true,
		syntax:    syntax{backslash: true, hashComments: true, dashNeedsSpace: true, quotesAreString: true},
		session: func(name []byte) bool {
			switch string(name) {
			case "get_lock", "release_lock", "release_all_locks", "is_free_lock", "is_used_lock", "last_insert_id", "found_rows", "row_count",
				"lastval", "connection_id":
				return true
			}
			return false
		},
		volatile: func(name []byte) bool {
			switch string(name) {
			case "nextval", "setval", "sys_exec", "master_pos_wait", "uuid_short", "load_file", "benchmark":
				return true
			}
			return false
		},
	}
}

func (d *mysql) Name() string                  { return "mysql" }
func (d *mysql) Classify(query string) Verdict { return d.grammar.classify(query) }

func (d *mysql) Probe(ctx context.Context, c driver.Conn) (NodeState, error) {
	r, err := ask1(ctx, c, 3, `select @@global.read_only, @@global.gtid_executed, (select group_concat(distinct received_transaction_set) from performance_schema.replication_connection_status)`)
	if err != nil {
		return NodeState{}, err
	}
	gtid := strings.ReplaceAll(r[1], "\n", "")
	st := NodeState{Role: RolePrimary, Replayed: Position{System: "mysql", Offset: mysqlOffset(gtid), GTID: gtid}}
	st.Received = st.Replayed
	if r[0] == "1" {
		st.Role = RoleReplica
	}
	return st, nil
}

func (d *mysql) Capture(ctx context.Context, c driver.Conn) (Position, error) {
	r, err := ask1(ctx, c, 1, `select @@global.gtid_executed`)
	if err != nil {
		return Position{}, err
	}
	gtid := strings.ReplaceAll(r[0], "\n", "")
	return Position{Offset: mysqlOffset(gtid), GTID: gtid}, nil
}

func (d *mysql) Reached(ctx context.Context, c driver.Conn, want Position, budget time.Duration) (bool, error) {
	r, err := ask1(ctx, c, 1, fmt.Sprintf(`select wait_for_executed_gtid_set('%s', %s)`, safeGTID(want.GTID), seconds(budget)))
	return err == nil && r[0] == "0", err
}

func (d *mysql) Covers(have, want Position) bool {
	return (have.System == want.System || want.System == "") && mysqlCovers(have.GTID, want.GTID)
}

func (d *mysql) Kind(err error) ErrorKind {
	switch mysqlNumber(err) {
	case 0:
	case 1290, 1792, 1836: // --read-only, a read-only transaction, read-only mode
		return KindReadOnly
	case 1053, 1077, 1079, 1927: // shutdown, connection killed
		return KindLost
	default:
		return KindOther
	}
	if err != nil && strings.Contains(err.Error(), "invalid connection") { // mysql.ErrInvalidConn: the answer did not come
		return KindLost
	}
	k, _ := netKind(err)
	return k
}

// safeGTID lets only the characters of a GTID into a statement: tokens come from outside.
func safeGTID(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F' || r == '-' || r == ',' || r == ':' {
			return r
		}
		return -1
	}, s)
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }

type mariadb struct{ mysql }

func (d *mariadb) Name() string { return "mariadb" }

func (d *mariadb) Probe(ctx context.Context, c driver.Conn) (NodeState, error) {
	r, err := ask1(ctx, c, 3, `select @@global.read_only, @@global.gtid_current_pos, @@global.gtid_domain_id`)
	if err != nil {
		return NodeState{}, err
	}
	st := NodeState{Role: RolePrimary, Replayed: Position{System: "mariadb-" + r[2], Offset: mariaOffset(r[1]), GTID: r[1]}}
	if r[0] == "1" {
		st.Role = RoleReplica
		if s, err := columnsOf(ctx, c, `show slave status`); err == nil && s != nil { // without the privilege there is no age
			if sec, err := strconv.ParseInt(s["seconds_behind_master"], 10, 64); err == nil {
				st.ReplayAge = time.Duration(sec) * time.Second
			}
			if io := s["gtid_io_pos"]; mariaOffset(io) > st.Replayed.Offset {
				st.Received = Position{System: st.Replayed.System, Offset: mariaOffset(io), GTID: io}
			}
		}
	}
	if st.Received.IsZero() {
		st.Received = st.Replayed
	}
	return st, nil
}

func (d *mariadb) Capture(ctx context.Context, c driver.Conn) (Position, error) {
	r, err := ask1(ctx, c, 2, `select @@session.last_gtid, @@global.gtid_binlog_pos`)
	if err != nil {
		return Position{}, err
	}
	gtid := r[0]
	if gtid == "" {
		gtid = r[1]
	}
	return Position{Offset: mariaOffset(gtid), GTID: gtid}, nil
}

func (d *mariadb) Reached(ctx context.Context, c driver.Conn, want Position, budget time.Duration) (bool, error) {
	r, err := ask1(ctx, c, 1, fmt.Sprintf(`select master_gtid_wait('%s', %s)`, safeGTID(want.GTID), seconds(budget)))
	return err == nil && r[0] == "0", err
}

func (d *mariadb) Covers(have, want Position) bool {
	return (have.System == want.System || want.System == "") && mariaCovers(have.GTID, want.GTID)
}

// Cut stops receiving and waits until what was received is applied, so that the positions are final.
func (d *mariadb) Cut(ctx context.Context, c driver.Conn) (NodeState, error) {
	if err := tell(ctx, c, `stop slave io_thread`); err != nil {
		return NodeState{}, err
	}
	ok, err := poll(ctx, 10*time.Second, func() (bool, error) {
		s, err := columnsOf(ctx, c, `show slave status`)
		return s == nil || s["read_master_log_pos"] == s["exec_master_log_pos"], err
	})
	if err != nil {
		return NodeState{}, err
	}
	if !ok {
		return NodeState{}, errors.New("replica: the relay log was not applied in time")
	}
	return d.Probe(ctx, c)
}

func (d *mariadb) Promote(ctx context.Context, c driver.Conn) (NodeState, error) {
	if err := tell(ctx, c, `stop slave`, `reset slave all`, `set global read_only = 0`); err != nil {
		return NodeState{}, err
	}
	return d.Probe(ctx, c)
}

func (d *mariadb) Follow(ctx context.Context, c driver.Conn, primary Node) error {
	f := strings.SplitN(primary.ConnInfo, ":", 4)
	if len(f) < 3 {
		return fmt.Errorf("replica: Node.ConnInfo of %s is not host:port:user:password", primary.Name)
	}
	port, err := strconv.Atoi(f[1])
	if err != nil {
		return fmt.Errorf("replica: Node.ConnInfo of %s: %w", primary.Name, err)
	}
	q := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	pass := ""
	if len(f) == 4 {
		pass = f[3]
	}
	return tell(ctx, c, `stop slave`, `set global read_only = 1`,
		fmt.Sprintf(`change master to master_host='%s', master_port=%d, master_user='%s', master_password='%s', master_use_gtid=slave_pos, master_connect_retry=1`,
			q.Replace(f[0]), port, q.Replace(f[2]), q.Replace(pass)),
		`start slave`)
}
