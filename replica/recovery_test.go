//go:build unix

package replica_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/replica"
)

// An asynchronous failover loses a row; the plan is executed as printed, and the row is back and the old primary a
// replica.
func TestRecoveryPlan(t *testing.T) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 1})
	ctx := t.Context()
	mustExec(t, s.Primary().DB(), "create table t (id bigint primary key)")
	mustExec(t, s.Primary().DB(), "insert into t values (1)")
	c := open(t, replica.Postgres(), pgNodes(t, s),
		replica.Options{Promotion: &replica.Promotion{Lease: replica.MemoryLease(), MaxLossBytes: 1 << 30}})
	waitFor(t, "the standby has the first row", func() bool {
		var n int
		return s.Nodes[1].DB().QueryRow("select count(*) from t").Scan(&n) == nil && n == 1
	})
	s.Nodes[1].Kill()
	mustExec(t, s.Primary().DB(), "insert into t values (2)") // acknowledged, and only here
	written := mustInt(t, s.Primary().DB(), "select (pg_current_wal_flush_lsn() - '0/0')::bigint")
	waitFor(t, "a probe has seen the position", func() bool {
		return c.Status().Nodes[0].Position.Offset >= uint64(written)
	})
	s.Primary().Kill()
	require.NoError(t, s.Nodes[1].Restart(ctx))
	waitFor(t, "promotion", func() bool { s := c.Status(); return s.Primary == "s1" && s.LastPromotion != nil })
	rep := c.Status().LastPromotion
	require.Positive(t, rep.LossBytes, "the loss is reported")
	require.Zero(t, mustInt(t, s.Nodes[1].DB(), "select count(*) from t where id = 2"))

	plan, err := c.RecoveryPlan("s0")
	require.NoError(t, err)
	require.Positive(t, plan.LossBytes)
	t.Log(plan)
	bins, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	require.NoError(t, err)
	path := os.Getenv("PATH")
	if len(bins) > 0 {
		path = bins[len(bins)-1] + ":" + path
	}
	old := s.Nodes[0]
	dir := old.Dir()
	work := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(work), 0o755))
	require.NoError(t, os.Chmod(work, 0o777))
	for _, step := range plan.Steps {
		if step.Fallback {
			continue
		}
		cmd := asDatabaseUser(step.Command)
		cmd.Dir = work
		cmd.Env = []string{"PATH=" + path, "PGDATA=" + dir, "PGPORT=" + strconv.Itoa(old.Port()), "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", step.Command, out)
	}
	waitFor(t, "the old primary is a replica with all rows", func() bool {
		st := c.Status().Nodes[0]
		return st.Role == replica.RoleReplica && st.State == "up" && st.Fenced == "" &&
			mustInt(t, old.DB(), "select count(*) from t") == 2
	})
}

// asDatabaseUser runs a shell command as the database's user.
func asDatabaseUser(command string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", "-c", command)
	if os.Geteuid() == 0 {
		if u, err := user.Lookup("postgres"); err == nil {
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		}
	}
	return cmd
}
