// Package hooktest proves that a callback of a user cannot hold up the object that calls it. Each package runs Prove
// for each of its callbacks, and JoinsAll for its JoinHooks.
package hooktest

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Subject is an object whose callback misbehaves.
type Subject struct {
	// Object is what the callback was given to: all its exported methods must be named in Methods, Leave or Close.
	Object any
	// Trigger makes the object call the callback. It runs on a goroutine of its own and may last as long as the
	// callback.
	Trigger func()
	// Works returns nil if the object keeps its promises to others: failover within its bound, other requests served,
	// leases extended. It is called after Trigger has reached the callback, from the test's goroutine, and sleeps in
	// virtual time as it likes, for less than a minute.
	Works func() error
	// Methods calls each method of Object in some valid way. Keys are the methods' names.
	Methods map[string]func()
	// Leave names methods that need no call from inside of the callback, such as String.
	Leave []string
	// Close ends the object. It must not wait for the callback.
	Close func()
	// AfterExit, if set, replaces Works where the callback has ended its goroutine or panicked, for callbacks that run
	// on the goroutine of the caller and take its call with them.
	AfterExit func() error
}

// Prove runs setup once for each kind of misbehavior, in a bubble of virtual time. setup makes the object with a
// callback that calls misbehave, and must use nothing that holds up a bubble (no real sockets). The kinds: calling each
// method from inside and calling Close from inside (the first call only), blocking for a minute, panicking, and ending
// the goroutine (every call).
func Prove(t *testing.T, setup func(t *testing.T, misbehave func()) Subject) {
	t.Helper()
	in := func(kind string, always bool, act func(s *Subject),
		verify func(t *testing.T, s *Subject, called func() bool)) {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s *Subject
				var ready sync.WaitGroup // setup may trigger the callback itself, before it has returned
				ready.Add(1)
				var calls atomic.Int64
				made := setup(t, func() {
					if n := calls.Add(1); n == 1 || always {
						ready.Wait()
						act(s)
					}
				})
				s = &made
				checkMethods(t, s)
				ready.Done()
				go func() {
					defer func() { _ = recover() }() // a panic may reach the caller whose own call it was
					s.Trigger()
				}()
				synctest.Wait()
				for end := time.Now().Add(30 * time.Second); calls.Load() == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				if calls.Load() == 0 {
					t.Fatal("the callback was not called within 30 s: the test proves nothing")
				}
				verify(t, s, func() bool { return calls.Load() > 0 })
			})
		})
	}
	works := func(t *testing.T, f func() error) {
		t.Helper()
		if err := f(); err != nil {
			t.Errorf("the object does not work: %v", err)
		}
	}

	var done atomic.Bool
	in("calls methods", false, func(s *Subject) {
		for _, name := range names(s.Methods) {
			s.Methods[name]()
		}
		done.Store(true)
	}, func(t *testing.T, s *Subject, _ func() bool) {
		within(t, &done, "a method called by the callback does not return")
		works(t, s.Works)
		s.Close()
	})
	var closed atomic.Bool
	in("calls Close", false, func(s *Subject) {
		s.Close()
		closed.Store(true)
	}, func(t *testing.T, s *Subject, _ func() bool) {
		within(t, &closed, "Close called by the callback does not return")
		s.Close()
	})
	in("blocks", true, func(*Subject) { time.Sleep(time.Minute) }, func(t *testing.T, s *Subject, _ func() bool) {
		start := time.Now()
		works(t, s.Works)
		if d := time.Since(start); d >= time.Minute {
			t.Errorf("Works took %v: it has waited for the callback", d)
		}
		start = time.Now()
		s.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("Close took %v: it has waited for the callback", d)
		}
		time.Sleep(2 * time.Minute)
	})
	after := func(t *testing.T, s *Subject, _ func() bool) {
		if s.AfterExit != nil {
			works(t, s.AfterExit)
		} else {
			works(t, s.Works)
		}
		s.Close()
	}
	in("panics", true, func(*Subject) { panic("a callback of the user") }, after)
	in("ends its goroutine", true, func(*Subject) { runtime.Goexit() }, after)
}

func within(t *testing.T, done *atomic.Bool, msg string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(msg)
		}
	}
}

func names(m map[string]func()) []string {
	var ns []string
	for n := range m {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	return ns
}

func checkMethods(t *testing.T, s *Subject) {
	t.Helper()
	typ := reflect.TypeOf(s.Object)
	for i := range typ.NumMethod() {
		name := typ.Method(i).Name
		if _, ok := s.Methods[name]; !ok && !slices.Contains(s.Leave, name) && name != "Close" {
			t.Errorf("hooktest: method %v.%s is neither called from inside of the callback nor left out", typ, name)
		}
	}
}

// JoinsAll checks that join calls every function of both structs, in order, with the arguments it was called with, that
// a nil struct or function is left out, and that results, if any, are none.
func JoinsAll[H any](t *testing.T, join func(a, b *H) *H) {
	t.Helper()
	typ := reflect.TypeFor[H]()
	var got []string
	full := func(tag string) *H {
		h := new(H)
		v := reflect.ValueOf(h).Elem()
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Type.Kind() != reflect.Func {
				continue
			}
			v.Field(i).Set(reflect.MakeFunc(f.Type, func(args []reflect.Value) []reflect.Value {
				got = append(got, fmt.Sprint(tag, f.Name, len(args)))
				out := make([]reflect.Value, f.Type.NumOut())
				for o := range out {
					out[o] = reflect.Zero(f.Type.Out(o))
				}
				return out
			}))
		}
		return h
	}
	call := func(h *H) {
		v := reflect.ValueOf(h).Elem()
		for i := range typ.NumField() {
			f := v.Field(i)
			if f.Kind() != reflect.Func || f.IsNil() {
				continue
			}
			args := make([]reflect.Value, f.Type().NumIn())
			for a := range args {
				args[a] = reflect.Zero(f.Type().In(a))
			}
			f.Call(args)
		}
	}
	var want []string
	for i := range typ.NumField() {
		if f := typ.Field(i); f.Type.Kind() == reflect.Func {
			want = append(want, fmt.Sprint("a", f.Name, f.Type.NumIn()), fmt.Sprint("b", f.Name, f.Type.NumIn()))
		}
	}
	call(join(full("a"), full("b")))
	if !slices.Equal(want, got) {
		t.Errorf("JoinHooks calls %v, want %v", got, want)
	}
	a := full("a")
	if join(a, nil) != a || join(nil, a) != a || join(nil, nil) != nil {
		t.Error("JoinHooks with nil does not return the other")
	}
	got = nil
	call(join(new(H), full("b")))
	call(join(full("a"), new(H)))
	if len(got) != len(want) {
		t.Errorf("JoinHooks with nil functions calls %v", got)
	}
}
