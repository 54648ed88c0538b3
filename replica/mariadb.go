package replica

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strconv"
	"time"
)

// MariaDB is the dialect of MariaDB 10.5 and later with the driver go-sql-driver/mysql. It implements Promoter, through
// Node.Admin connections with READ_ONLY ADMIN and REPLICATION SLAVE ADMIN. The application's user must not have
// READ_ONLY ADMIN or SUPER: such users write on replicas unhindered.
//
// A node with read_only=1 is a replica, one without is a primary. MariaDB has no timelines: when a former primary comes
// back writable, this process knows it is the former one only if it promoted the other itself; else writes are refused
// (ErrSplitBrain). Start servers with read_only=1 in their configuration.
func MariaDB() Dialect { return &mariadb{mysql{grammar: mysqlGrammar()}} }

type mariadb struct{ mysql }

func (d *mariadb) Name() string { return "mariadb" }

func (d *mariadb) Probe(ctx context.Context, c driver.Conn) (NodeState, error) {
	r, err := ask1(ctx, c, 3, `select @@global.read_only, @@global.gtid_current_pos, @@global.gtid_domain_id`)
	if err != nil {
		return NodeState{}, err
	}
	st := NodeState{Role: RolePrimary, Replayed: Position{System: "mariadb-" + r[2], Offset: mariaOffset(r[1]),
		GTID: r[1]}}
	if r[0] == "1" {
		st.Role = RoleReplica
		// without the privilege there is no age
		if s, err := columnsOf(ctx, c, `show slave status`); err == nil && s != nil {
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
		return NodeState{}, errUnapplied
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
	a, err := accountOf(primary)
	if err != nil {
		return err
	}
	return tell(ctx, c, `stop slave`, `set global read_only = 1`,
		a.into(`change master to master_host='%s', master_port=%d, master_user='%s', master_password='%s', master_use_gtid=slave_pos, master_connect_retry=1`), `start slave`)
}
