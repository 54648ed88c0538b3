//go:build linux

package tcp

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
)

// A tunnel between TCP sockets has no goroutine, so it is on a loop.
func TestLoopTunnelsHaveNoGoroutine(t *testing.T) {
	e := echo(t) // two goroutines each: the backend's
	b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
	dial := serve(t, b, listen(t, "tcp", "127.0.0.1:0"), nil)
	c, br := dial()
	exchangeLine(t, c, br, "first")
	before := runtime.NumGoroutine()
	const n = 100
	for range n {
		c, br := dial()
		exchangeLine(t, c, br, "hello")
	}
	require.Eventually(t, func() bool {
		return runtime.NumGoroutine() <= before+n+5
	}, lbtest.WaitFor, lbtest.Pause, "the backend's and no more")
	require.Equal(t, n+1, b.Stats().InFlight)
}

// Urgent data stops a read in the midst of what there is; what stands behind it is not forgotten.
func TestLoopReadsBehindUrgentData(t *testing.T) {
	b := lbtest.New(t, []lb.Endpoint{echo(t)}, lb.Options{})
	c, br := serve(t, b, listen(t, "tcp", "127.0.0.1:0"), nil)()
	for range 20 {
		exchangeLine(t, c, br, "before")
		raw, err := c.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Write(func(fd uintptr) bool {
			syscall.Sendto(int(fd), []byte("one"), syscall.MSG_MORE, nil)
			// "!" is urgent and not part of the stream
			syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB|syscall.MSG_MORE, nil)
			err = syscall.Sendto(int(fd), []byte("two\n"), 0, nil)
			return true
		}))
		require.NoError(t, err)
		got, err := br.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "onetwo\n", got)
	}
}

// What a loop does not take stays as it is, for a pump.
func TestLoopsRefuse(t *testing.T) {
	pair := func() (client, backend net.Conn) {
		l := listen(t, "tcp", "127.0.0.1:0")
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		s, err := l.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { c.Close(); s.Close() })
		return c, s
	}
	never := func() { t.Error("over") }
	open := newLoops(0)
	defer open.close()
	a, b := pair()
	require.False(t, open.take(wrappedConn{a.(*net.TCPConn)}, b, never))
	require.False(t, open.take(a, wrappedConn{b.(*net.TCPConn)}, never))
	gone, _ := pair()
	gone.Close()
	require.False(t, open.take(gone, b, never))
	require.False(t, open.take(a, gone, never))
	ended := newLoops(0)
	ended.close()
	require.False(t, ended.take(a, b, never))
	for _, l := range open.loops {
		l.close()
	}
	require.False(t, open.take(a, b, never), "its loops have ended")
	go a.Write([]byte("whole\n"))
	line, err := bufio.NewReader(b).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "whole\n", line)
	for _, l := range open.loops {
		require.Zero(t, l.load.Load())
	}
}

// A stream that breaks off while the kernel holds some of it leaves nothing to the next.
func TestLoopPipeIsEmptyForTheNext(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const size = 8 << 20
	e := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		mark, _ := br.ReadByte()
		c.Write(bytes.Repeat([]byte{mark}, size))
	})
	b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
	dial := serve(t, b, listen(t, "tcp", "127.0.0.1:0"), nil)
	for i := range exhaustive.N(t, 5, 20) {
		broken, br := dial()
		broken.Write([]byte{'x'})
		_, err := io.CopyN(io.Discard, br, int64(i)<<16+1)
		require.NoError(t, err)
		broken.(*net.TCPConn).SetLinger(0) // resets
		broken.Close()
		c, br := dial()
		c.Write([]byte{byte(i)})
		closeWrite(t, c)
		got, err := io.ReadAll(br)
		require.NoError(t, err)
		require.True(t, bytes.Equal(bytes.Repeat([]byte{byte(i)}, size), got), i)
	}
	noneInFlight(t, b)
}
