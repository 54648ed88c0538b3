package http1

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/socket"
)

// How long a state is awaited, and how often it is looked at.
const waitFor, pause = 20 * time.Second, 2 * time.Millisecond

// sockets is a connection of the pool and the backend's side of it.
func sockets(t *testing.T) (*Conn, *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	peer, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close(); peer.Close() })
	return newConn(nc), peer.(*net.TCPConn)
}

func TestAskIsSentByTheRead(t *testing.T) {
	piped, end := net.Pipe()
	t.Cleanup(func() { piped.Close(); end.Close() })
	socket, peer := sockets(t)
	for name, side := range map[string]struct {
		c    *Conn
		peer net.Conn
	}{"socket": {socket, peer}, "no socket": {newConn(piped), end}} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				side.c.Ask([]byte("question"))
				require.True(t, side.c.Unsent())
				go func() {
					got := make([]byte, 8)
					io.ReadFull(side.peer, got)
					side.peer.Write(bytes.ToUpper(got))
				}()
				got := make([]byte, 8)
				_, err := io.ReadFull(side.c.Reader, got)
				require.NoError(t, err)
				require.Equal(t, "QUESTION", string(got))
				require.False(t, side.c.Unsent())
			}
		})
	}
}

// An answer may be there before the question: it is not waited for.
func TestAskAfterTheAnswer(t *testing.T) {
	c, peer := sockets(t)
	_, err := peer.Write([]byte("early"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !c.reusable(true) }, waitFor, pause)
	c.Ask([]byte("question"))
	go func() {
		io.ReadFull(peer, make([]byte, 8))
		peer.Write([]byte(" and late"))
	}()
	got := make([]byte, 14)
	_, err = io.ReadFull(c.Reader, got)
	require.NoError(t, err)
	require.Equal(t, "early and late", string(got))
}

func TestAskInVain(t *testing.T) {
	for name, spoil := range map[string]func(c *Conn, peer *net.TCPConn){
		"reset":  func(c *Conn, peer *net.TCPConn) { peer.SetLinger(0); peer.Close() },
		"closed": func(c *Conn, _ *net.TCPConn) { c.Close() },
		"late":   func(c *Conn, _ *net.TCPConn) { c.SetReadDeadline(time.Unix(1, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := sockets(t)
			spoil(c, peer)
			if name == "reset" {
				require.Eventually(t, func() bool { return !c.reusable(true) }, waitFor, pause)
			}
			c.Ask([]byte("question"))
			_, err := c.Head()
			require.Error(t, err)
			require.True(t, c.Unsent(), "so that it may be sent again elsewhere")
		})
	}
}

// The pool looks after connections whose client may leave: it closes them, and nobody else gets one that is to be
// closed.
func TestBusyConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	p := &Pool{}
	p.Init(PoolOptions{Addr: l.Addr().String(), Dial: (&net.Dialer{}).DialContext, MaxIdle: 256})
	t.Cleanup(p.Close)
	take := func(ctx context.Context) *Conn {
		c, err := p.Get(ctx, true, true)
		require.NoError(t, err)
		return c
	}
	idle := func() int { n, _ := p.Stats(); return n }

	c := take(t.Context())
	p.sweepBusy()
	p.Put(c)
	require.Equal(t, 1, idle(), "its client stayed")

	ctx, leave := context.WithCancel(t.Context())
	c = take(ctx)
	require.Zero(t, idle())
	leave()
	p.sweepBusy()
	p.Put(c) // done just then
	require.Zero(t, idle(), "another request would lose it")
	require.Error(t, c.SetReadDeadline(time.Time{}), "closed")

	ctx, leave = context.WithCancel(t.Context())
	first, second, third := take(ctx), take(t.Context()), take(ctx)
	ended := make(chan error, 1)
	go func() { // by itself, while somebody waits
		_, err := third.Reader.Peek(1)
		ended <- err
	}()
	p.Drop(first)
	leave()
	require.ErrorIs(t, <-ended, net.ErrClosed)
	p.Drop(third)
	p.Put(second)
	require.Equal(t, 1, idle())
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.busy) == 0 && p.sweep == nil
	}, waitFor, pause, "nothing is looked at in vain")
}

// Many are looked at in parts; what is in no part is closed all the same.
func TestManyBusyConnections(t *testing.T) {
	p := &Pool{}
	p.Init(PoolOptions{Addr: "192.0.2.1:80"})
	ctx, leave := context.WithCancel(t.Context())
	var all []*Conn
	for i := range 2*sweepAtOnce + 10 {
		nc, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		c := newConn(nc)
		p.mu.Lock()
		if p.watch(c, t.Context()); i%3 == 0 {
			c.ctx = ctx
		}
		p.mu.Unlock()
		all = append(all, c)
	}
	for _, c := range all[5:20] {
		p.Drop(c)
	}
	leave()
	p.sweepBusy()
	for i, c := range all {
		closed := func() bool { return c.Conn.Conn.SetDeadline(time.Time{}) != nil }
		if i%3 == 0 || i >= 5 && i < 20 {
			require.Eventually(t, closed, waitFor, pause, "%d", i) // a sweep of the pool's own may be at it
		} else {
			require.False(t, closed(), "%d", i)
		}
		p.Drop(c)
	}
	require.Eventually(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.sweep == nil }, waitFor, pause)
}

func TestStandingDeadline(t *testing.T) {
	c, peer := sockets(t)
	c.Within(time.Minute)
	first := c.standing.Load()
	require.NotZero(t, first)
	c.Within(time.Minute)
	require.Equal(t, first, c.standing.Load(), "it will do")
	c.Within(2 * time.Minute)
	longer := c.standing.Load()
	require.Greater(t, longer, first)
	c.Within(time.Minute)
	require.Less(t, c.standing.Load(), longer, "it would be too long")
	c.Untimed()
	require.Zero(t, c.standing.Load())

	// One that passes while nobody reads does not make the connection useless.
	c.Within(time.Nanosecond)
	require.True(t, c.reusable(true))
	require.Zero(t, c.standing.Load())
	c.SetReadDeadline(time.Unix(1, 0))
	require.True(t, c.reusable(true))
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Reader.Peek(1)
	require.NoError(t, err)

	c, _ = sockets(t)
	c.Within(time.Millisecond)
	_, err = c.Reader.Peek(1)
	require.True(t, socket.IsTimeout(err), "%v", err)
}
