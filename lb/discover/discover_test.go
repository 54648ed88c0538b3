package discover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/hooktest"
	"github.com/tierkit/tierkit/lb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func endpoints(n int) []lb.Endpoint {
	es := make([]lb.Endpoint, n)
	for i := range es {
		es[i] = lb.Endpoint{ID: fmt.Sprintf("b%02d", i), Addr: fmt.Sprintf("192.0.2.%d:80", i+1)}
	}
	return es
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := lb.New(endpoints(1), lb.Options{})
		require.NoError(t, err)
		defer b.Close()
		type reply struct {
			es  []lb.Endpoint
			err error
		}
		var answer atomic.Pointer[reply]
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		answer.Store(&reply{es: endpoints(3)})
		d, err := New(b, func(context.Context) ([]lb.Endpoint, error) {
			r := answer.Load()
			return r.es, r.err
		}, Options{Interval: time.Second, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		go func() { done <- d.Run(ctx) }()
		synctest.Wait()
		require.Len(t, b.Backends(), 3)
		answer.Store(&reply{})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		require.Len(t, b.Backends(), 3, "an empty list is not believed")
		answer.Store(&reply{endpoints(2), errors.New("directory is down")})
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, b.Backends(), 3)
		answer.Store(&reply{es: endpoints(2)})
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, b.Backends(), 2)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		s := d.Stats()
		require.Equal(t, Stats{Updates: 2, Failures: 2, LastError: "directory is down",
			LastErrorTime: s.LastErrorTime}, s)
		require.False(t, s.LastErrorTime.IsZero())
	})
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	write := func(s string) { require.NoError(t, os.WriteFile(path, []byte(s), 0o600)) }
	write("# web\n10.0.0.2:80 weight=2 zone=a\n\n10.0.0.1:80 id=one priority=1 # comment\n")
	es, err := File(path)(t.Context())
	require.NoError(t, err)
	require.Equal(t, []lb.Endpoint{{ID: "one", Addr: "10.0.0.1:80", Priority: 1},
		{Addr: "10.0.0.2:80", Weight: 2, Zone: "a"}}, es)
	for _, bad := range []string{"nonsense", "10.0.0.1:80 color=red", "10.0.0.1:80 weight=x",
		"10.0.0.1:80 weight=-1"} {
		write("10.0.0.9:80\n" + bad)
		_, err := File(path)(t.Context())
		require.ErrorContains(t, err, ":2:", bad)
	}
	_, err = File(path + "x")(t.Context())
	require.Error(t, err)
}

// A directory that fills the same slice each time is heard.
func TestReusedSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := lb.New(nil, lb.Options{})
		require.NoError(t, err)
		defer b.Close()
		found, n := endpoints(2), 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		d, err := New(b, func(context.Context) ([]lb.Endpoint, error) {
			if n++; n == 2 {
				found[1].Addr = "192.0.2.99:80"
			}
			return found, nil
		}, Options{Interval: time.Second})
		require.NoError(t, err)
		go func() {
			defer close(done)
			d.Run(ctx)
		}()
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, "192.0.2.99:80", b.Backends()[1].Endpoint().Addr)
		cancel()
		<-done
	})
}

func TestSourceProof(t *testing.T) {
	hooktest.Prove(t, func(t *testing.T, misbehave func()) hooktest.Subject {
		b, err := lb.New(endpoints(2), lb.Options{})
		require.NoError(t, err)
		d, err := New(b, func(context.Context) ([]lb.Endpoint, error) { misbehave(); return endpoints(2), nil },
			Options{Interval: time.Second, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		return hooktest.Subject{
			Object: d, Leave: []string{"Run"}, Methods: map[string]func(){"Stats": func() { d.Stats() }},
			Trigger: func() { defer close(ended); d.Run(ctx) },
			Works: func() error { // it notices and goes on
				time.Sleep(20 * time.Second)
				s := d.Stats()
				if s.Updates == 0 && s.Failures == 0 {
					return errors.New("neither an update nor a failure")
				}
				return nil
			},
			Close: func() { cancel(); <-ended; b.Close() },
		}
	})
}
