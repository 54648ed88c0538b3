// Package contender starts reverse proxies, each as a process of its own in front of one backend: tierkit's and those
// of others, so that benchmarks and the conformance program set all of them up alike.
package contender

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrMissing means that the program is not installed.
var ErrMissing = errors.New("not installed")

// Contender is a proxy that can be started.
type Contender struct {
	Name string
	TCP  bool // moves connections, not requests
	run  func(dir, listen, backend string) (*exec.Cmd, error)
}

// All of them. Those with "-all" use every core, their namesakes one worker or thread; the others are Go programs.
func All() []Contender {
	all := []Contender{
		{Name: "nginx", run: nginx(1)}, {Name: "nginx-all", run: nginx(0)},
		{Name: "haproxy", run: haproxy(1, "http")}, {Name: "haproxy-all", run: haproxy(0, "http")},
		{Name: "caddy", run: caddy},
		{Name: "haproxy-tcp", TCP: true, run: haproxy(1, "tcp")},
		{Name: "haproxy-tcp-all", TCP: true, run: haproxy(0, "tcp")},
		{Name: "tierkit-tcp", TCP: true, run: own("tierkit-tcp")},
		{Name: "tierkit-front", run: own("tierkit-front")},
	}
	for role := range handlers {
		all = append(all, Contender{Name: role, run: own(role)})
	}
	return all
}

// Named finds one.
func Named(name string) (Contender, error) {
	for _, c := range All() {
		if c.Name == name {
			return c, nil
		}
	}
	return Contender{}, fmt.Errorf("no contender %q", name)
}

// Process is a contender that runs.
type Process struct {
	Addr string
	cmd  *exec.Cmd
	dir  string
	in   io.Closer
}

// Start runs c in front of backend and waits until it listens. The error is ErrMissing when its program is.
func (c Contender) Start(backend string) (*Process, error) {
	dir, err := os.MkdirTemp("", "lb-"+c.Name)
	if err != nil {
		return nil, err
	}
	listen, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd, err := c.run(dir, listen, backend)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	p := &Process{Addr: listen, cmd: cmd, dir: dir}
	if p.in, err = cmd.StdinPipe(); err != nil { // our own end with their input, so with us
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Start()
	log.Close()
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		nc, err := net.Dial("tcp", listen)
		if err == nil {
			nc.Close()
			return p, nil
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			p.Stop()
			return nil, fmt.Errorf("%s does not listen: %v\n%s", c.Name, err, text)
		}
	}
}

// Stop ends the process and its children.
func (p *Process) Stop() {
	p.in.Close()
	p.cmd.Process.Signal(os.Interrupt)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
	p.cmd.Wait()
	stop()
	os.RemoveAll(p.dir)
}

// CPU is the time that the process and its children have used, from /proc.
func (p *Process) CPU() time.Duration { return treeCPU(p.cmd.Process.Pid) }

// Resident is its memory in bytes, without that of its children.
func (p *Process) Resident() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	f := strings.Fields(string(b))
	if err != nil || len(f) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(f[1])
	return pages * os.Getpagesize()
}

func treeCPU(pid int) time.Duration {
	sum, ok := pidCPU(pid)
	if !ok {
		return 0
	}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(children)) {
		if c, err := strconv.Atoi(f); err == nil {
			sum += treeCPU(c)
		}
	}
	return sum
}

const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on

func pidCPU(pid int) (time.Duration, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * tick, true
}

// Busy is the time that all processors together were busy, steal left out.
func Busy() time.Duration {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	n := 0
	for i, s := range strings.Fields(line) {
		switch i {
		case 1, 2, 3, 6, 7: // user, nice, system, irq, softirq
			v, _ := strconv.Atoi(s)
			n += v
		}
	}
	return time.Duration(n) * tick
}

// Self is the time of this process and of the children that it has waited for.
func Self() time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
