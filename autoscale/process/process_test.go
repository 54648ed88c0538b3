//go:build unix

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/autoscale"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("TIERKIT_COPY"); dir != "" {
		serve(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// serve is a copy: a web server that says where it is in a file, and ends gracefully when it is asked to.
func serve(dir string) {
	switch os.Getenv("TIERKIT_MOOD") {
	case "never ready":
		select {}
	case "broken":
		os.Exit(3)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		child := exec.Command("sleep", "600") // which must go too
		_ = child.Start()
		_ = os.WriteFile(filepath.Join(dir, "child"), []byte(strconv.Itoa(child.Process.Pid)), 0o600)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		os.Exit(1)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, os.Getenv("TIERKIT_VERSION"))
	})}
	term := make(chan os.Signal, 1)
	if os.Getenv("TIERKIT_MOOD") != "stubborn" {
		signal.Notify(term, syscall.SIGTERM)
	}
	go srv.Serve(ln)
	name := filepath.Join(dir, os.Getenv("TIERKIT_SLOT"))
	_ = os.WriteFile(name+".tmp", []byte(ln.Addr().String()), 0o600)
	_ = os.Rename(name+".tmp", name)
	<-term
	_ = srv.Shutdown(context.Background())
	_ = os.WriteFile(name+".drained", nil, 0o600)
}

// tier makes a group whose copies listen on ports of their own.
func tier(t *testing.T, change func(*Options), env ...string) (*Group, string) {
	dir := t.TempDir()
	o := Options{
		Command: func(slot int) *exec.Cmd {
			_ = os.Remove(filepath.Join(dir, strconv.Itoa(slot)))
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(append(os.Environ(), "TIERKIT_COPY="+dir, "TIERKIT_SLOT="+strconv.Itoa(slot)), env...)
			return cmd
		},
		Ready: func(ctx context.Context, slot int) error {
			_, err := get(dir, slot)
			return err
		},
	}
	if change != nil {
		change(&o)
	}
	g, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	return g, dir
}

func get(dir string, slot int) (string, error) {
	addr, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(slot)))
	if err != nil {
		return "", err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	res, err := c.Get("http://" + string(addr))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func TestGrowsAndDrains(t *testing.T) {
	var mu sync.Mutex
	var drained []int
	g, dir := tier(t, func(o *Options) {
		o.Drain = func(_ context.Context, slot int) error {
			mu.Lock()
			defer mu.Unlock()
			drained = append(drained, slot)
			return nil
		}
	})
	require.NoError(t, g.Set(t.Context(), 3))
	require.Equal(t, []int{0, 1, 2}, g.Slots())
	for slot := range 3 {
		_, err := get(dir, slot)
		require.NoError(t, err, "ready when Set returns")
	}
	require.NoError(t, g.Set(t.Context(), 1))
	require.Equal(t, []int{0}, g.Slots())
	require.ElementsMatch(t, []int{1, 2}, drained)
	for _, slot := range []string{"1", "2"} {
		require.FileExists(t, filepath.Join(dir, slot+".drained"), "it was asked, not killed")
	}
	require.NoError(t, g.Set(t.Context(), 2))
	require.Equal(t, []int{0, 1}, g.Slots(), "slots are used again")
	require.NoError(t, g.Close())
	require.NoError(t, g.Close())
	require.ErrorIs(t, g.Set(t.Context(), 1), ErrClosed)
}

// A killed copy is replaced by the controller, and does not shrink the tier meanwhile.
func TestControllerReplacesACrashedCopy(t *testing.T) {
	exits := make(chan int, 8)
	g, dir := tier(t, func(o *Options) { o.OnExit = func(slot int, err error) { exits <- slot } })
	c, err := autoscale.New(g.Funcs(), autoscale.Policy{Min: 2, Max: 4,
		Metrics: []autoscale.Metric{{Name: "load", Target: 1}}},
		func(context.Context) ([]autoscale.Sample, error) {
			return []autoscale.Sample{{Metric: "load", Value: 2}}, nil
		},
		autoscale.Options{ReplaceAfter: time.Millisecond, Timeout: time.Minute})
	require.NoError(t, err)
	_, err = c.Look(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{0, 1}, g.Slots())
	require.NoError(t, g.Process(1).Kill())
	require.Equal(t, 1, <-exits)
	require.Equal(t, []int{0}, g.Slots())
	require.Nil(t, g.Process(1))
	n, err := g.Get(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Eventually(t, func() bool {
		_, err := c.Look(t.Context())
		require.NoError(t, err)
		return len(g.Slots()) == 2
	}, 30*time.Second, 10*time.Millisecond)
	_, err = get(dir, 1)
	require.NoError(t, err)
	require.EqualValues(t, 1, c.Stats().Replaced)
}

func TestStubbornCopiesAreKilledWithTheirChildren(t *testing.T) {
	g, dir := tier(t, func(o *Options) { o.Grace = 200 * time.Millisecond }, "TIERKIT_MOOD=stubborn")
	require.NoError(t, g.Set(t.Context(), 1))
	b, err := os.ReadFile(filepath.Join(dir, "child"))
	require.NoError(t, err)
	child, err := strconv.Atoi(string(b))
	require.NoError(t, err)
	require.NoError(t, g.Set(t.Context(), 0))
	require.Eventually(t, func() bool { // gone, or a zombie that nobody has waited for
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return errors.Is(err, os.ErrNotExist) || strings.Contains(string(stat), ") Z ") || syscall.Kill(child, 0) != nil
	}, 10*time.Second, 10*time.Millisecond)
}

func TestFailedStarts(t *testing.T) {
	g, _ := tier(t, nil, "TIERKIT_MOOD=broken")
	require.ErrorContains(t, g.Set(t.Context(), 2), "ended before it was ready")
	n, _ := g.Get(t.Context())
	require.Zero(t, n, "what did not start does not count")
	g, _ = tier(t, func(o *Options) { o.StartTimeout = 200 * time.Millisecond }, "TIERKIT_MOOD=never ready")
	require.ErrorContains(t, g.Set(t.Context(), 1), "not ready in time")
	g, _ = tier(t, func(o *Options) { o.Command = func(int) *exec.Cmd { return exec.Command("/nonexistent") } })
	require.ErrorContains(t, g.Set(t.Context(), 1), "copy 0")
	_, err := New(Options{})
	require.ErrorContains(t, err, "Options.Command")
	require.Error(t, g.Replace(t.Context(), "7"))
	require.Error(t, g.Replace(t.Context(), "web"))
}

// A rollout over processes: the new version everywhere, or the old one.
func TestRollout(t *testing.T) {
	version := "1"
	var g *Group
	dir := t.TempDir()
	g, err := New(Options{
		Command: func(slot int) *exec.Cmd {
			_ = os.Remove(filepath.Join(dir, strconv.Itoa(slot)))
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "TIERKIT_COPY="+dir, "TIERKIT_SLOT="+strconv.Itoa(slot), "TIERKIT_VERSION="+
				version)
			return cmd
		},
		Ready: func(_ context.Context, slot int) error { _, err := get(dir, slot); return err },
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Close()) }()
	require.NoError(t, g.Set(t.Context(), 3))
	r := autoscale.Rollout{
		Instances: []string{"0", "1", "2"}, Watch: 50 * time.Millisecond, Interval: 10 * time.Millisecond,
		Replace: func(ctx context.Context, id string) (string, error) { return id, g.Replace(ctx, id) },
		Healthy: func(_ context.Context, id string) error {
			slot, _ := strconv.Atoi(id)
			v, err := get(dir, slot)
			if err == nil && v == "3" && slot == 1 {
				err = errors.New("version 3 does not work here")
			}
			return err
		},
		Timeout: time.Second,
		Restore: func(ctx context.Context, old, _ string) error {
			version = "2"
			return g.Replace(ctx, old)
		},
	}
	r.Timeout = 30 * time.Second
	version = "2"
	done, err := r.Run(t.Context())
	require.NoError(t, err)
	require.Len(t, done, 3)
	version, r.Timeout = "3", 2*time.Second
	_, err = r.Run(t.Context())
	require.ErrorIs(t, err, autoscale.ErrRolledBack)
	for slot := range 3 {
		v, err := get(dir, slot)
		require.NoError(t, err)
		require.Equal(t, "2", v)
	}
}
