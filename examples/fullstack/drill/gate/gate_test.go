package gate

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		ctx := t.Context()
		require.NoError(t, g.Pass(ctx, func() error { return nil }))
		require.ErrorIs(t, g.Pass(ctx, func() error { return io.EOF }), io.EOF)
		g.Freeze()
		short, cancel := context.WithTimeout(ctx, time.Second)
		require.ErrorIs(t, g.Pass(short, nil), context.DeadlineExceeded)
		cancel()
		passed := false
		go func() { passed = g.Pass(ctx, func() error { return nil }) == nil }()
		synctest.Wait()
		require.False(t, passed)
		g.Thaw()
		synctest.Wait()
		require.True(t, passed)
		dead := g.Killed()
		g.Kill()
		<-dead
		g.Kill()
		g.Freeze()
		g.Thaw()
		require.Equal(t, Dead, g.State())
		require.ErrorIs(t, g.Pass(ctx, nil), ErrDead)
		node, cancel := g.Context(ctx)
		<-node.Done()
		require.ErrorIs(t, context.Cause(node), ErrDead)
		cancel()
		g.Revive()
		require.NoError(t, g.Pass(ctx, func() error { return nil }))
		select {
		case <-g.Killed():
			t.Fatal("a revived node is not dead")
		default:
		}
	})
}

// After Kill has returned no effect happens any more, however many goroutines are at it.
func TestKillIsFinal(t *testing.T) {
	for range 50 {
		g := New()
		var effects atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for g.Pass(context.Background(), func() error { effects.Add(1); return nil }) == nil {
				}
			})
		}
		for effects.Load() < 100 {
			time.Sleep(10 * time.Microsecond)
		}
		g.Kill()
		n := effects.Load()
		wg.Wait()
		require.Equal(t, n, effects.Load())
	}
}

func TestListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := New()
	l := g.Listener(inner)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	defer wg.Wait()
	defer l.Close()
	ask := func(c net.Conn, wait time.Duration) error {
		_ = c.SetDeadline(time.Now().Add(wait))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}
	c, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, ask(c, 5*time.Second))
	g.Freeze()
	var ne net.Error
	require.True(t, errors.As(ask(c, 50*time.Millisecond), &ne) && ne.Timeout(),
		"a frozen node accepts bytes and answers nothing")
	g.Thaw()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err, "it answers when it thaws")
	g.Kill()
	require.Error(t, ask(c, 5*time.Second))
	d, err := net.Dial("tcp", inner.Addr().String())
	if err == nil {
		require.Error(t, ask(d, 5*time.Second))
		_ = d.Close()
	}
	g.Revive()
	e, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	defer e.Close()
	require.NoError(t, ask(e, 5*time.Second))
}
