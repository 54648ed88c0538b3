package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tierkit/tierkit/examples/fullstack/proof"
)

// Killed with kill -9 in the middle of a play and started again on the same directory: nothing that was acknowledged is
// missing, from either play.
func TestKill9AndGoOn(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	dir, report := t.TempDir(), filepath.Join(t.TempDir(), "r.json")
	start := func(extra ...string) (*exec.Cmd, *watched) {
		cmd := exec.Command(exe, append(append(
			[]string{"-data", dir, "-replay", "sample", "-rate", fmt.Sprint(rate(240))}, free...), extra...)...)
		cmd.Env = append(os.Environ(), "FULLSTACK_RUN=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out := &watched{}
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		return cmd, out
	}
	cmd, out := start("-duration", "60s")
	ledger := filepath.Join(dir, "ledger.jsonl")
	require.Eventually(t, func() bool {
		b, _ := os.ReadFile(ledger)
		return bytes.Count(b, []byte(`"k":"write"`)) > 100 && bytes.Count(b, []byte(`"k":"view"`)) > 150
	}, 40*time.Second, 20*time.Millisecond, "%s", out)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())

	cmd, out = start("-duration", "4s", "-report", report)
	err = cmd.Wait()
	t.Log(out)
	require.NoError(t, err)
	require.Contains(t, out.String(), "going on with")
	b, err := os.ReadFile(report)
	require.NoError(t, err)
	var r proof.Report
	require.NoError(t, json.Unmarshal(b, &r))
	require.True(t, r.Balanced)
	require.Greater(t, r.AckedWrites, 50)
}

// An interrupt drains and ends with 0; during a play it ends with 130. Nothing stays behind.
func TestInterrupt(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	for code, args := range map[int][]string{0: nil, 130: {"-replay", "sample", "-duration", "60s"}} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			tmp := t.TempDir()
			cmd := exec.Command(exe, append(args, free...)...)
			cmd.Env = append(os.Environ(), "FULLSTACK_RUN=1", "TMPDIR="+tmp)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			out := &watched{}
			cmd.Stdout, cmd.Stderr = out, out
			require.NoError(t, cmd.Start())
			require.Eventually(t, func() bool {
				return strings.Contains(out.String(), "still single")
			}, 30*time.Second, 10*time.Millisecond)
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			_ = cmd.Wait()
			require.Equal(t, code, cmd.ProcessState.ExitCode(), out.String())
			left, _ := os.ReadDir(tmp)
			require.Empty(t, left)
		})
	}
}
