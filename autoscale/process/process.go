//go:build unix

// Package process lets package autoscale size a tier of operating-system processes: copies of one command on this
// machine, each with a number of its own, started when the tier grows and drained when it shrinks.
//
//	g, err := process.New(process.Options{Command: func(slot int) *exec.Cmd {
//		cmd := exec.Command("./web", "-listen", fmt.Sprintf("127.0.0.1:%d", 8000+slot))
//		return cmd
//	}})
//	c, err := autoscale.New(g.Funcs(), policy, samples, autoscale.Options{})
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/tierkit/tierkit/autoscale"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("process: closed")

// Options describe the copies. Command is required.
type Options struct {
	// Command makes the command of a copy. Slots are the smallest numbers from 0 that no running copy has, so that they
	// can stand for ports or directories.
	Command func(slot int) *exec.Cmd
	// Ready returns nil when a copy may get work; it is asked every 50 ms until then. Nil: at once.
	Ready func(ctx context.Context, slot int) error
	// StartTimeout bounds Ready; a copy that is not ready in time is stopped, and Set fails. Zero means 30 s.
	StartTimeout time.Duration
	// Drain is called before a copy is told to stop: take it out of the load balancer. Nil does nothing.
	Drain func(ctx context.Context, slot int) error
	// Stop is the signal that asks a copy to finish. Zero means SIGTERM.
	Stop syscall.Signal
	// Grace is how long it has to do so, Drain included, before it is killed with all its children. Zero means 30 s.
	Grace time.Duration
	// OnExit is told of copies that ended without having been asked to. It must not block.
	OnExit func(slot int, err error)
}

// Group is the running copies. All methods are safe for concurrent use; changes are made one after the other.
type Group struct {
	o      Options
	change sync.Mutex // one change at a time

	mu     sync.Mutex // guards what follows
	copies map[int]*running
	closed bool
}

type running struct {
	slot   int
	cmd    *exec.Cmd
	exited chan struct{}
	err    error     // of Wait; after exited
	asked  bool      // to stop; guarded by Group.mu
	broken time.Time // when it ended unasked
}

// New starts nothing yet.
func New(o Options) (*Group, error) {
	switch {
	case o.Command == nil:
		return nil, errors.New("process: Options.Command is nil")
	case o.StartTimeout < 0 || o.Grace < 0:
		return nil, errors.New("process: Options.StartTimeout or Options.Grace is negative")
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 30 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 30 * time.Second
	}
	if o.Stop == 0 {
		o.Stop = syscall.SIGTERM
	}
	return &Group{o: o, copies: map[int]*running{}}, nil
}

// Funcs are what a controller needs. A copy that ended by itself still counts until it is replaced, so that the
// controller does not take a crash for a smaller load.
func (g *Group) Funcs() autoscale.Funcs {
	return autoscale.Funcs{Get: g.Get, Set: g.Set, Broken: g.Broken, Replace: g.Replace}
}

// Get returns the number of copies.
func (g *Group) Get(context.Context) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.copies), nil
}

// Slots returns the numbers of the copies that run, in order.
func (g *Group) Slots() (slots []int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for slot, c := range g.copies {
		if c.broken.IsZero() {
			slots = append(slots, slot)
		}
	}
	slices.Sort(slots)
	return slots
}

// Set starts or drains copies until there are n: broken ones go first, then those with the highest slots. It returns
// when the new ones are ready and the old ones have ended.
func (g *Group) Set(ctx context.Context, n int) error {
	if n < 0 {
		return fmt.Errorf("process: %d copies", n)
	}
	g.change.Lock()
	defer g.change.Unlock()
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrClosed
	}
	var leave []*running
	for _, c := range g.copies {
		leave = append(leave, c)
	}
	slices.SortFunc(leave, func(a, b *running) int {
		if a.broken.IsZero() != b.broken.IsZero() {
			if b.broken.IsZero() {
				return -1
			}
			return 1
		}
		return b.slot - a.slot
	})
	leave = leave[:max(0, len(leave)-n)]
	g.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range leave {
		wg.Go(func() { g.stop(ctx, c) })
	}
	wg.Wait()
	var errs []error
	var mu sync.Mutex
	for {
		g.mu.Lock()
		if len(g.copies) >= n {
			g.mu.Unlock()
			break
		}
		slot := g.free()
		g.copies[slot] = &running{slot: slot, exited: make(chan struct{})} // taken
		g.mu.Unlock()
		wg.Go(func() {
			if err := g.start(ctx, slot); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// free is the smallest slot without a copy; g.mu is held.
func (g *Group) free() int {
	for slot := 0; ; slot++ {
		if g.copies[slot] == nil {
			return slot
		}
	}
}

// start runs the command for a slot that is taken, and gives the slot back when that fails.
func (g *Group) start(ctx context.Context, slot int) (err error) {
	defer func() {
		if err != nil {
			g.mu.Lock()
			delete(g.copies, slot)
			g.mu.Unlock()
			err = fmt.Errorf("process: copy %d: %w", slot, err)
		}
	}()
	cmd := g.o.Command(slot)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // so that its children can be killed with it
	if err := cmd.Start(); err != nil {
		return err
	}
	c := &running{slot: slot, cmd: cmd, exited: make(chan struct{})}
	g.mu.Lock()
	g.copies[slot] = c
	g.mu.Unlock()
	go g.wait(c)
	if g.o.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.o.StartTimeout)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		err := g.o.Ready(ctx, slot)
		if err == nil {
			return nil
		}
		select {
		case <-c.exited:
			return fmt.Errorf("ended before it was ready: %w", errors.Join(c.err, err))
		case <-ctx.Done():
			g.stop(context.Background(), c)
			return fmt.Errorf("not ready in time: %w", err)
		case <-t.C:
		}
	}
}

// wait notes how a copy ended.
func (g *Group) wait(c *running) {
	c.err = c.cmd.Wait()
	g.mu.Lock()
	unasked := !c.asked
	if unasked {
		c.broken = time.Now()
	}
	g.mu.Unlock()
	close(c.exited)
	if unasked && g.o.OnExit != nil {
		g.o.OnExit(c.slot, c.err)
	}
}

// stop drains a copy, asks it to end, and kills it when it does not.
func (g *Group) stop(ctx context.Context, c *running) {
	ctx, cancel := context.WithTimeout(ctx, g.o.Grace)
	defer cancel()
	g.mu.Lock()
	c.asked = true
	alive := c.broken.IsZero()
	g.mu.Unlock()
	if g.o.Drain != nil && alive {
		_ = g.o.Drain(ctx, c.slot) // it goes in any case
	}
	_ = c.cmd.Process.Signal(g.o.Stop)
	select {
	case <-c.exited:
	case <-ctx.Done():
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // the group: also children that outlived it
	<-c.exited
	g.mu.Lock()
	if g.copies[c.slot] == c {
		delete(g.copies, c.slot)
	}
	g.mu.Unlock()
}

// Broken lists the copies that ended without having been asked to.
func (g *Group) Broken(context.Context) (out []autoscale.Instance, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for slot, c := range g.copies {
		if !c.broken.IsZero() {
			out = append(out, autoscale.Instance{ID: strconv.Itoa(slot), Since: c.broken})
		}
	}
	return out, nil
}

// Replace stops what is left of a copy and starts a new one in its slot: after a crash, or to bring a new version into
// service (autoscale.Rollout).
func (g *Group) Replace(ctx context.Context, id string) error {
	slot, err := strconv.Atoi(id)
	if err != nil {
		return fmt.Errorf("process: %q is not a slot", id)
	}
	g.change.Lock()
	defer g.change.Unlock()
	g.mu.Lock()
	c := g.copies[slot]
	closed := g.closed
	g.mu.Unlock()
	switch {
	case closed:
		return ErrClosed
	case c == nil:
		return fmt.Errorf("process: there is no copy %d", slot)
	}
	g.stop(ctx, c)
	g.mu.Lock()
	g.copies[slot] = &running{slot: slot, exited: make(chan struct{})}
	g.mu.Unlock()
	return g.start(ctx, slot)
}

// Process returns a running copy's process, nil when there is none.
func (g *Group) Process(slot int) *os.Process {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.copies[slot]; c != nil && c.cmd != nil && c.broken.IsZero() {
		return c.cmd.Process
	}
	return nil
}

// Close drains all copies. Idempotent.
func (g *Group) Close() error {
	err := g.Set(context.Background(), 0)
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	if errors.Is(err, ErrClosed) {
		err = nil
	}
	return err
}
