package hooktest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/tierkit/tierkit/internal/hooks"
	"github.com/tierkit/tierkit/internal/usercode"
)

// counter calls its callback with each new value: properly, on a goroutine of its own.
type counter struct {
	mu     sync.Mutex
	n      int
	notify func()
	serial usercode.Serial
}

func (c *counter) Inc() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.serial.Add(c.notify)
}

func (c *counter) Value() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func TestProve(t *testing.T) {
	Prove(t, func(t *testing.T, misbehave func()) Subject {
		c := &counter{notify: misbehave}
		return Subject{
			Object:  c,
			Trigger: c.Inc,
			Methods: map[string]func(){"Inc": c.Inc, "Value": func() { c.Value() }},
			Close:   func() {},
			Works: func() error {
				before, start := c.Value(), time.Now()
				c.Inc()
				if c.Value() != before+1 || time.Since(start) > time.Second {
					return errors.New("no increment")
				}
				return nil
			},
		}
	})
}

// TestMutant is a counter that calls its callback as it must not. TestProveCatchesMutants runs it in a process of its
// own and wants it to fail.
func TestMutant(t *testing.T) {
	mutant := os.Getenv("HOOKTEST_MUTANT")
	if mutant == "" {
		t.Skip("run by TestProveCatchesMutants")
	}
	Prove(t, func(t *testing.T, misbehave func()) Subject {
		c := &counter{notify: misbehave}
		inc := c.Inc
		closed := func() {}
		switch mutant {
		case "under a lock":
			inc = func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.n++
				c.notify()
			}
		case "inline":
			inc = func() { c.mu.Lock(); c.n++; c.mu.Unlock(); c.notify() }
		case "on a goroutine without recover":
			inc = func() { c.Inc(); go c.notify() }
		case "Close waits":
			closed = func() { c.serial.Wait(context.Background()) }
		case "not called":
			inc = func() { c.mu.Lock(); c.n++; c.mu.Unlock() }
		case "a method is forgotten":
		}
		methods := map[string]func(){"Inc": inc, "Value": func() { c.Value() }}
		if mutant == "a method is forgotten" {
			delete(methods, "Value")
		}
		return Subject{Object: c, Trigger: inc, Methods: methods, Close: closed, Works: func() error {
			before, start := c.Value(), time.Now()
			inc()
			if c.Value() != before+1 || time.Since(start) > time.Second {
				return errors.New("no increment")
			}
			return nil
		}}
	})
}

func TestProveCatchesMutants(t *testing.T) {
	for _, mutant := range []string{"under a lock", "inline", "on a goroutine without recover", "Close waits",
		"not called", "a method is forgotten", "none"} {
		t.Run(mutant, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run", "^TestMutant$", "-test.timeout", "5s")
			cmd.Env = append(os.Environ(), "HOOKTEST_MUTANT="+mutant)
			out, err := cmd.CombinedOutput()
			if (err == nil) != (mutant == "none") {
				t.Errorf("the mutant's test ended with %v:\n%s", err, out)
			}
		})
	}
}

type twoHooks struct {
	A func(int)
	B func(int, string)
}

func TestJoinsAll(t *testing.T) {
	JoinsAll(t, func(a, b *twoHooks) *twoHooks {
		if a == nil || b == nil {
			if a == nil {
				return b
			}
			return a
		}
		return &twoHooks{A: hooks.Join1(a.A, b.A), B: hooks.Join2(a.B, b.B)}
	})
}
