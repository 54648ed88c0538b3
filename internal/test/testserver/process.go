package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const startTimeout = 60 * time.Second

// Process is one server process with everything it forked. Its methods are safe for concurrent use.
type Process struct {
	name string
	dir  string // working directory of the whole family
	port int
	cred *credential
	argv []string
	env  []string // besides PATH, HOME, locale and time zone
	// ready reports whether the server answers.
	ready func(ctx context.Context) error

	mu   sync.Mutex
	done chan struct{} // closed when the main process has been waited for; nil before the first start
	pid  int
}

// Port on 127.0.0.1.
func (p *Process) Port() int { return p.port }

// Addr is host:port.
func (p *Process) Addr() string { return "127.0.0.1:" + strconv.Itoa(p.port) }

// Dir is the server's own directory.
func (p *Process) Dir() string { return p.dir }

// LogFile is where the server's output goes.
func (p *Process) LogFile() string { return p.dir + ".log" }

// Running reports whether the main process exists (it may be frozen).
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

func (p *Process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Start starts the server and waits until it answers. Starting a running one is a no-op.
func (p *Process) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return nil
	}
	log, err := os.OpenFile(p.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=" + p.dir}, p.env...)
	cmd.SysProcAttr = ownSession(p.cred)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("testserver: start %s: %w", p.name, err)
	}
	done := make(chan struct{})
	p.pid, p.done = cmd.Process.Pid, done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("testserver: %s ended while starting: %s", p.name, p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("testserver: %s did not answer: %w: %s", p.name, err, p.logTail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *Process) logTail() string {
	b, _ := os.ReadFile(p.LogFile())
	if len(b) > 1500 {
		b = b[len(b)-1500:]
	}
	return strings.TrimSpace(string(b))
}

// Kill is kill -9 of the server and all it forked; it returns when they are gone.
func (p *Process) Kill() { p.stop(sigKill) }

// Stop ends the server in an orderly way; Kill after ten seconds.
func (p *Process) Stop() { p.stop(sigInt) }

func (p *Process) stop(sig signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		if sig != sigKill {
			signalAll(p.dir, sigCont)
			_ = kill(p.pid, sig)
			select {
			case <-p.done:
			case <-time.After(10 * time.Second):
			}
		}
		_ = kill(p.pid, sigKill)
	}
	for deadline := time.Now().Add(10 * time.Second); signalAll(p.dir, sigKill) > 0 &&
		time.Now().Before(deadline); {
		time.Sleep(2 * time.Millisecond)
	}
	if p.done != nil {
		<-p.done
	}
}

// Freeze is SIGSTOP for the server and all it forked: the host accepts connections and answers nothing.
func (p *Process) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return
	}
	_ = kill(p.pid, sigStop) // first the one that forks
	for n := -1; ; {
		m := signalAll(p.dir, sigStop)
		if m == n {
			return
		}
		n = m
	}
}

// Thaw ends a freeze.
func (p *Process) Thaw() { signalAll(p.dir, sigCont) }

// Restart kills the server if it runs and starts it again on the same directory and port.
func (p *Process) Restart(ctx context.Context) error {
	p.Kill()
	return p.Start(ctx)
}

// remove stops the server for good and deletes its files.
func (p *Process) remove() {
	p.Kill()
	removeSharedMemory(p.dir)
	_ = os.RemoveAll(p.dir)
	_ = os.Remove(p.LogFile())
}

// pidsIn lists the processes whose working directory is dir or below it.
func pidsIn(dir string) []int {
	ents, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range ents {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cwd, err := os.Readlink("/proc/" + e.Name() + "/cwd")
		if err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func signalAll(dir string, sig signal) int {
	n := 0
	for _, pid := range pidsIn(dir) {
		if kill(pid, sig) == nil {
			n++
		}
	}
	return n
}

// removeSharedMemory frees the System V segment that a killed PostgreSQL leaves behind.
func removeSharedMemory(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 {
		return
	}
	f := strings.Fields(lines[6])
	if len(f) != 2 {
		return
	}
	if id, err := strconv.Atoi(f[1]); err == nil {
		removeSegment(id)
	}
}

// run runs a tool to its end as the server's user.
func run(ctx context.Context, dir string, cred *credential, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=" + dir}
	cmd.SysProcAttr = ownSession(cred)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("testserver: %s: %w: %s", filepath.Base(argv[0]), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// template is a data directory that is made once per test process and copied for each server.
type template struct {
	once sync.Once
	dir  string
	err  error
}

func (t *template) copyTo(dir string, cred *credential, fill func(dir string) error) error {
	t.once.Do(func() {
		if t.dir, t.err = newDir("template", cred); t.err == nil {
			t.err = fill(t.dir)
		}
	})
	if t.err != nil {
		return t.err
	}
	return run(context.Background(), dir, nil, "cp", "-a", "--reflink=auto", t.dir+"/.", dir)
}

var errNotReady = errors.New("testserver: not ready")
