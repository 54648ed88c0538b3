package replica

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MySQL is the dialect of MySQL 5.6 and later with GTID mode on, with the driver go-sql-driver/mysql. It implements
// Promoter, through Node.Admin connections with SUPER, or from 8.0 on SYSTEM_VARIABLES_ADMIN, REPLICATION_SLAVE_ADMIN
// and REPLICATION CLIENT. The application's user must not have SUPER: such users write on replicas unhindered (5.7 and
// later: unless super_read_only is set).
//
// It is tested against MySQL 5.6; the words that replaced "master" and "slave" in 8.0.23 are taken from the manual.
//
// Roles and returning primaries are as with MariaDB: read_only tells a replica, and servers should start with
// read_only=1.
func MySQL() Dialect { return &mysql{grammar: mysqlGrammar()} }

type mysql struct{ grammar grammar }

func mysqlGrammar() grammar {
	return grammar{
		sequences: true,
		syntax:    syntax{backslash: true, hashComments: true, dashNeedsSpace: true, quotesAreString: true},
		session: func(name []byte) bool {
			switch string(name) {
			case "get_lock", "release_lock", "release_all_locks", "is_free_lock", "is_used_lock", "last_insert_id",
				"found_rows", "row_count",
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
	r, err := ask1(ctx, c, 3, `select @@global.read_only, @@global.gtid_executed, @@global.version`)
	if err != nil {
		return NodeState{}, err
	}
	gtid := strings.ReplaceAll(r[1], "\n", "")
	st := NodeState{Role: RolePrimary, Replayed: Position{System: "mysql", Offset: mysqlOffset(gtid), GTID: gtid}}
	st.Received = st.Replayed
	if r[0] != "1" {
		return st, nil
	}
	st.Role = RoleReplica
	s, err := wordsOf(r[2]).status(ctx, c)
	if err != nil || s == nil { // without the privilege there is no age
		return st, nil
	}
	st.ReplayAge = s.behind
	if !mysqlCovers(gtid, s.received) {
		missing, err := ask1(ctx, c, 1, fmt.Sprintf(`select gtid_subtract('%s', '%s')`, safeGTID(s.received),
			safeGTID(gtid)))
		if err != nil {
			return st, err
		}
		missing[0] = strings.ReplaceAll(missing[0], "\n", "")
		st.Received.Offset += mysqlOffset(missing[0])
		st.Received.GTID = strings.Trim(gtid+","+missing[0], ",")
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
	r, err := ask1(ctx, c, 1, fmt.Sprintf(`select wait_for_executed_gtid_set('%s', %s)`, safeGTID(want.GTID),
		seconds(budget)))
	if mysqlNumber(err) == 1305 { // there is no such function before 5.7
		return poll(ctx, budget, func() (bool, error) {
			r, err := ask1(ctx, c, 1, fmt.Sprintf(`select gtid_subset('%s', @@global.gtid_executed)`,
				safeGTID(want.GTID)))
			return err == nil && r[0] == "1", err
		})
	}
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
	// mysql.ErrInvalidConn: the answer did not come
	if err != nil && strings.Contains(err.Error(), "invalid connection") {
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

// Cut stops receiving and waits until what was received is applied, so that the positions are final.
func (d *mysql) Cut(ctx context.Context, c driver.Conn) (NodeState, error) {
	w, err := d.words(ctx, c)
	if err != nil {
		return NodeState{}, err
	}
	if err := tell(ctx, c, w.stop+` io_thread`); err != nil {
		return NodeState{}, err
	}
	ok, err := poll(ctx, 10*time.Second, func() (bool, error) {
		s, err := w.status(ctx, c)
		if err != nil || s == nil {
			return true, err
		}
		r, err := ask1(ctx, c, 1, `select @@global.gtid_executed`)
		// Before 5.7 the received set names a transaction whose end never came; there one thread applies all, and it
		// says when it is done.
		return err == nil && (mysqlCovers(strings.ReplaceAll(r[0], "\n", ""), s.received) || w.before57 && s.idle), err
	})
	if err != nil {
		return NodeState{}, err
	}
	if !ok {
		return NodeState{}, errUnapplied
	}
	return d.Probe(ctx, c)
}

func (d *mysql) Promote(ctx context.Context, c driver.Conn) (NodeState, error) {
	w, err := d.words(ctx, c)
	if err != nil {
		return NodeState{}, err
	}
	if err := tell(ctx, c, w.stop, w.reset, `set global read_only = 0`); err != nil {
		return NodeState{}, err
	}
	return d.Probe(ctx, c)
}

func (d *mysql) Follow(ctx context.Context, c driver.Conn, primary Node) error {
	a, err := accountOf(primary)
	if err != nil {
		return err
	}
	w, err := d.words(ctx, c)
	if err != nil {
		return err
	}
	return tell(ctx, c, w.stop, `set global read_only = 1`, a.into(w.change), w.start)
}

func (d *mysql) words(ctx context.Context, c driver.Conn) (mysqlWords, error) {
	r, err := ask1(ctx, c, 1, `select @@global.version`)
	if err != nil {
		return mysqlWords{}, err
	}
	return wordsOf(r[0]), nil
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
