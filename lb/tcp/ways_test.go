package tcp

import (
	"bufio"
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/policy"
)

// tunnelWays are the sockets that Serve can meet: TCP goes to the loops where there are some, Unix sockets are
// pumped as sockets, and a type of the user's own only by its methods.
var tunnelWays = map[string]func(t testing.TB) net.Listener{
	"tcp": func(t testing.TB) net.Listener { return listen(t, "tcp", "127.0.0.1:0") },
	"unix": func(t testing.TB) net.Listener {
		return listen(t, "unix", filepath.Join(t.TempDir(), "s"))
	},
	"wrapped": func(t testing.TB) net.Listener { return wrappedListener{listen(t, "tcp", "127.0.0.1:0")} },
}

func listen(t testing.TB, network, addr string) net.Listener {
	l, err := net.Listen(network, addr)
	require.NoError(t, err)
	return l
}

type (
	wrappedListener struct{ net.Listener }
	wrappedConn     struct{ *net.TCPConn }
)

func (l wrappedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wrappedConn{c.(*net.TCPConn)}, nil
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newServer(t testing.TB, b *lb.Balancer, o ...Options) *Server {
	s, err := New(b, append(o, Options{})[0])
	require.NoError(t, err)
	return s
}

// starter serves a balancer and returns a function that opens a tunnel.
type starter func(b *lb.Balancer, o ...Options) (dial func() (net.Conn, *bufio.Reader))

// eachTunnel runs a test over every way, with a function that opens a tunnel.
func eachTunnel(t *testing.T, test func(t *testing.T, start starter)) {
	for name, way := range tunnelWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func(b *lb.Balancer, o ...Options) func() (net.Conn, *bufio.Reader) {
				return serve(t, b, way(t), nil, o...)
			})
		})
	}
}

// serve starts a server; stopped gets what Serve returns when it is given, else that must be nil.
func serve(t testing.TB, b *lb.Balancer, l net.Listener, stopped *running, o ...Options) (dial func() (net.Conn,
	*bufio.Reader)) {
	s := newServer(t, b, o...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	if stopped != nil {
		*stopped = running{cancel, done}
	} else {
		t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	}
	at := l.Addr()
	return func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial(at.Network(), at.String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(lbtest.WaitFor))
		return c, bufio.NewReader(c)
	}
}

type running struct {
	cancel context.CancelFunc
	done   chan error
}

// stop must find that Serve returns.
func (s running) stop(t testing.TB) {
	s.cancel()
	select {
	case err := <-s.done:
		require.NoError(t, err)
	case <-time.After(lbtest.WaitFor):
		t.Fatal("Serve does not return")
	}
}

func echo(t testing.TB) lb.Endpoint {
	return lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) { io.Copy(c, br) })
}

// exchange sends a line and must get it back.
func exchangeLine(t testing.TB, c net.Conn, br *bufio.Reader, line string) {
	t.Helper()
	_, err := io.WriteString(c, line+"\n")
	require.NoError(t, err)
	got, err := br.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, line+"\n", got)
}

func closeWrite(t testing.TB, c net.Conn) {
	t.Helper()
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
}

func noneInFlight(t *testing.T, b *lb.Balancer) {
	t.Helper()
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, lbtest.WaitFor, lbtest.Pause)
}

func TestServe(t *testing.T) {
	e := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		io.WriteString(c, "hi ")
		io.Copy(c, br)
	})
	b := lbtest.New(t, []lb.Endpoint{e, {Addr: "127.0.0.1:1"}}, lb.Options{Policy: policy.RoundRobin()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	s := newServer(t, b)
	go func() { served <- s.Serve(ctx, l) }()
	for range 4 {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		io.WriteString(c, "there")
		c.(*net.TCPConn).CloseWrite()
		all, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "hi there", string(all))
		c.Close()
	}
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	buf := make([]byte, 3)
	_, err = io.ReadFull(c, buf)
	require.NoError(t, err)
	cancel()
	time.Sleep(20 * time.Millisecond)
	io.WriteString(c, "end") // a running connection goes on while it drains
	_, err = io.ReadFull(c, buf)
	require.NoError(t, err)
	require.Equal(t, "end", string(buf))
	c.Close()
	require.NoError(t, <-served)
}
