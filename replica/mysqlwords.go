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

// mysqlWords are the statements of replication, which were renamed in MySQL 8.0.22 and 8.0.23; 8.4 knows only the new
// ones.
type mysqlWords struct {
	show, start, stop, reset, change string
	before57                         bool
}

func wordsOf(version string) mysqlWords {
	var major, minor, patch int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch)
	if number := major*10000 + minor*100 + patch; number < 80023 {
		return mysqlWords{show: "show slave status", start: "start slave", stop: "stop slave", reset: "reset slave all",
			before57: number < 50700,
			change:   `change master to master_host='%s', master_port=%d, master_user='%s', master_password='%s', master_auto_position=1, master_connect_retry=1`}
	}
	return mysqlWords{show: "show replica status", start: "start replica", stop: "stop replica",
		reset:  "reset replica all",
		change: `change replication source to source_host='%s', source_port=%d, source_user='%s', source_password='%s', source_auto_position=1, source_connect_retry=1, get_source_public_key=1`}
}

type mysqlReplication struct {
	received string // GTID set
	behind   time.Duration
	idle     bool // all of the relay log is applied
}

// status is nil on a server that follows nobody.
func (w mysqlWords) status(ctx context.Context, c driver.Conn) (*mysqlReplication, error) {
	s, err := columnsOf(ctx, c, w.show)
	if err != nil || s == nil {
		return nil, err
	}
	either := func(a, b string) string {
		if v, ok := s[a]; ok {
			return v
		}
		return s[b]
	}
	r := &mysqlReplication{received: strings.ReplaceAll(s["retrieved_gtid_set"], "\n", ""),
		idle: strings.Contains(either("replica_sql_running_state", "slave_sql_running_state"),
			"has read all relay log")}
	if sec, err := strconv.ParseInt(either("seconds_behind_source", "seconds_behind_master"), 10, 64); err == nil {
		r.behind = time.Duration(sec) * time.Second
	}
	return r, nil
}

var errUnapplied = errors.New("replica: the relay log was not applied in time")

// account is Node.ConnInfo of the MySQL family: where a replica finds a primary, and as whom.
type account struct {
	host, user, password string
	port                 int
}

func accountOf(n Node) (a account, err error) {
	f := strings.SplitN(n.ConnInfo, ":", 4)
	if len(f) < 3 {
		return a, fmt.Errorf("replica: Node.ConnInfo of %s is not host:port:user:password", n.Name)
	}
	if a.port, err = strconv.Atoi(f[1]); err != nil {
		return a, fmt.Errorf("replica: Node.ConnInfo of %s: %w", n.Name, err)
	}
	a.host, a.user = f[0], f[2]
	if len(f) == 4 {
		a.password = f[3]
	}
	return a, nil
}

// into fills host, port, user and password into a statement.
func (a account) into(statement string) string {
	q := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf(statement, q.Replace(a.host), a.port, q.Replace(a.user), q.Replace(a.password))
}
