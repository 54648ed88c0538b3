package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/examples/fullstack/assemble"
	"github.com/tierkit/tierkit/examples/fullstack/proof"
	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/race"
)

// TestMain lets a test start this very binary as the program, so that it can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("FULLSTACK_RUN") == "1" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// free are flags for ports that nobody has.
var free = []string{"-site", "0", "-dns", "0", "-admin", "0"}

func TestBadUsageIsOneLineAndExit2(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	_, port, _ := net.SplitHostPort(busy.Addr().String())
	binary := filepath.Join(t.TempDir(), "binary")
	require.NoError(t, os.WriteFile(binary, []byte{0, 1, 2, '\n', 3}, 0o600))
	for want, args := range map[string][]string{
		"flag provided but not defined": {"-nonsense"},
		"unexpected argument":           {"replay"},
		"no such file":                  {"-replay", "/does/not/exist"},
		"combined log format":           {"-replay", binary},
		"is a directory":                {"-replay", "sample", "-report", t.TempDir()},
		"need -replay":                  {"-chaos"},
		"-rate must be":                 {"-replay", "sample", "-rate", "-1"},
		"-site must be":                 {"-site", "70000"},
		"at least 25s":                  {"-replay", "sample", "-chaos", "-duration", "5s"},
		"address already in use":        {"-site", "0", "-dns", "0", "-admin", port},
	} {
		t.Run(want, func(t *testing.T) {
			var out, errs bytes.Buffer
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			require.Equal(t, 2, run(args, &out, &errs))
			require.Contains(t, errs.String(), want)
			require.Equal(t, 1, strings.Count(errs.String(), "\n"), errs.String())
			left, err := os.ReadDir(tmp)
			require.NoError(t, err)
			require.Empty(t, left, "nothing is left behind")
		})
	}
	require.Equal(t, 0, run([]string{"-h"}, io.Discard, io.Discard))
}

// play runs the program and returns its exit code and report.
func play(t *testing.T, c config) (int, proof.Report) {
	t.Helper()
	c.report = filepath.Join(t.TempDir(), "report.json")
	c.verbose = true
	out := &watched{}
	code := c.run(out, out)
	t.Log(out.String())
	b, err := os.ReadFile(c.report)
	require.NoError(t, err)
	var r proof.Report
	require.NoError(t, json.Unmarshal(b, &r))
	return code, r
}

// rate is what a machine with two cores plays easily, also under the race detector and beside another test.
func rate(perSecond float64) float64 {
	if race.Enabled {
		return perSecond / 4
	}
	return perSecond
}

func TestPlaySample(t *testing.T) {
	code, r := play(t, config{replay: "sample", duration: 8 * time.Second, rate: rate(250)})
	require.Equal(t, 0, code)
	require.True(t, r.Balanced)
	require.Zero(t, r.ClientErrors)
	require.Zero(t, r.SessionsLost)
	require.Greater(t, r.AckedViews, 50)
	require.Equal(t, r.AckedViews, r.CountedViews)
	require.Greater(t, r.AckedWrites, 40)
	require.Equal(t, r.AckedWrites, r.StoredWrites)
	require.Greater(t, r.Sessions, 10)
	require.Greater(t, r.AckedUploads, 1)
	require.Positive(t, r.Honest404)
	if !race.Enabled { // the burst of the slower play is too small
		require.Greater(t, r.PeakWorkers, r.LeastWork, "the burst needs more workers")
	}
	require.Equal(t, r.LeastWork, r.EndWorkers, "idle returns to the least")
	require.Less(t, r.OldestAge, 5.0)
}

// The mutants: deliberately broken builds, each of which the books must catch. They run with the failures that bring
// the defect to light.
func TestMutantsAreCaught(t *testing.T) {
	full := exhaustive.On()
	for mutant, symptom := range map[assemble.Mutant]string{
		assemble.AckBeforeCount:   "acknowledged views are not counted",
		assemble.PromoteLaggard:   "acknowledged",
		assemble.ServeAfterDelete: "deleted post was served",
	} {
		t.Run(string(mutant), func(t *testing.T) {
			if mutant != assemble.ServeAfterDelete && !full {
				t.Skipf("runs with %s=1 only", exhaustive.Variable)
			}
			c := config{replay: "sample", duration: 8 * time.Second, rate: rate(240), mutant: mutant}
			switch mutant {
			case assemble.AckBeforeCount:
				c.drills = []string{"a worker in the middle of a job"}
			case assemble.PromoteLaggard:
				c.drills = []string{"the primary of shard s1"}
			}
			code, r := play(t, c)
			require.Equal(t, 1, code)
			require.False(t, r.Balanced)
			require.Contains(t, strings.Join(r.Imbalances, "; "), symptom)
		})
	}
}

// The same drills without a mutant: the books balance.
func TestDrillsWithoutMutantBalance(t *testing.T) {
	exhaustive.Only(t)
	code, r := play(t, config{replay: "sample", duration: 10 * time.Second, rate: rate(240),
		drills: []string{"a worker in the middle of a job", "the primary of shard s1"}})
	require.Equal(t, 0, code)
	require.Len(t, r.Failovers, 2)
	require.Less(t, r.Failovers[1].RecoveredMS, 1000.0)
}

// watched is a buffer that may be read while a process writes.
type watched struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}
