package lb

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// serveTCP starts the L4 mode and returns its address.
func serveTCP(t *testing.T, b *Balancer) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.ServeTCP(ctx, l) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return l.Addr().String()
}

// An end that comes together with the last data is seen too, although the poller tells of it only once.
func TestTunnelSeesAnEndBehindData(t *testing.T) {
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for i := 0; ; i++ {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(c, line)
			if line == "bye\n" {
				return // at once: data and end are one event for who looks later
			}
		}
	})
	for _, idle := range []time.Duration{0, -1} {
		addr := serveTCP(t, newBalancer(t, []Endpoint{e}, Options{Timeouts: Timeouts{Tunnel: idle}}))
		for range 30 {
			c, br := dialFront(t, addr)
			for i := range 9 {
				fmt.Fprintf(c, "line %d\n", i)
				got, err := br.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("line %d\n", i), got)
			}
			io.WriteString(c, "bye\n")
			rest, err := io.ReadAll(br)
			require.NoError(t, err)
			require.Equal(t, "bye\n", string(rest))
			c.Close()
		}
	}
}

// Large streams change between copies and splices, small exchanges after them go on.
func TestTunnelMovesEverySize(t *testing.T) {
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) { io.Copy(c, br) })
	b := newBalancer(t, []Endpoint{e}, Options{})
	c, br := dialFront(t, serveTCP(t, b))
	pattern := make([]byte, 5<<20)
	for i := range pattern {
		pattern[i] = byte(i * 7 >> 3)
	}
	for _, n := range []int{1, 10, 32 << 10, 5 << 20, 3, 128 << 10, 1 << 20, 1} {
		go c.Write(pattern[:n])
		got := make([]byte, n)
		_, err := io.ReadFull(br, got)
		require.NoError(t, err)
		require.True(t, string(got) == string(pattern[:n]), n)
	}
	c.Close()
	require.Eventually(t, func() bool { return b.Stats().InFlight == 0 }, waitFor, pause)
}

func TestTunnelIdleTimeout(t *testing.T) {
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) { io.Copy(c, br) })
	b := newBalancer(t, []Endpoint{e}, Options{Timeouts: Timeouts{Tunnel: time.Second}})
	c, br := dialFront(t, serveTCP(t, b))
	for range 12 {
		io.WriteString(c, "x")
		_, err := br.ReadByte()
		require.NoError(t, err)
	}
	_, err := br.ReadByte()
	require.ErrorIs(t, err, io.EOF, "closed when nothing moved for a while")
}
