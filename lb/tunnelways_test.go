package lb

import (
	"bufio"
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tunnelWays are the sockets that ServeTCP can meet: TCP goes to the loops where there are some, Unix sockets are
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

// eachTunnel runs a test over every way, with a function that opens a tunnel.
func eachTunnel(t *testing.T, test func(t *testing.T, start func(*Balancer) (dial func() (net.Conn, *bufio.Reader)))) {
	for name, way := range tunnelWays {
		t.Run(name, func(t *testing.T) {
			test(t, func(b *Balancer) func() (net.Conn, *bufio.Reader) { return serveTCP(t, b, way(t), nil) })
		})
	}
}

// serveTCP starts the L4 mode; stopped gets what it returns when it is given, else that must be nil.
func serveTCP(t testing.TB, b *Balancer, l net.Listener, stopped *tcpServer) (dial func() (net.Conn, *bufio.Reader)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeTCP(ctx, l) }()
	if stopped != nil {
		*stopped = tcpServer{cancel, done}
	} else {
		t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	}
	at := l.Addr()
	return func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial(at.Network(), at.String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(waitFor))
		return c, bufio.NewReader(c)
	}
}

type tcpServer struct {
	cancel context.CancelFunc
	done   chan error
}

// stop must find that ServeTCP returns.
func (s tcpServer) stop(t testing.TB) {
	s.cancel()
	select {
	case err := <-s.done:
		require.NoError(t, err)
	case <-time.After(waitFor):
		t.Fatal("ServeTCP does not return")
	}
}

func echo(t testing.TB) Endpoint {
	return fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) { io.Copy(c, br) })
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

func noneInFlight(t *testing.T, b *Balancer) {
	t.Helper()
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, waitFor, pause)
}
