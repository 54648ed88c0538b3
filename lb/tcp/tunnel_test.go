package tcp

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/socket"
	"github.com/tierkit/tierkit/internal/test/exhaustive"
	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/policy"
)

// An end that comes together with the last data is seen too, although the poller tells of it only once.
func TestTunnelSeesAnEndBehindData(t *testing.T) {
	e := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
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
	eachTunnel(t, func(t *testing.T, start starter) {
		for _, idle := range []time.Duration{0, -1} {
			dial := start(lbtest.New(t, []lb.Endpoint{e}, lb.Options{}), Options{IdleTimeout: idle})
			for range 30 {
				c, br := dial()
				for i := range 9 {
					exchangeLine(t, c, br, fmt.Sprintf("line %d", i))
				}
				io.WriteString(c, "bye\n")
				rest, err := io.ReadAll(br)
				require.NoError(t, err)
				require.Equal(t, "bye\n", string(rest))
				c.Close()
			}
		}
	})
}

// Streams of every size pass unchanged, small exchanges after them go on.
func TestTunnelMovesEverySize(t *testing.T) {
	e := echo(t)
	pattern := make([]byte, 5<<20)
	for i := range pattern {
		pattern[i] = byte(i * 7 >> 3)
	}
	eachTunnel(t, func(t *testing.T, start starter) {
		b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
		c, br := start(b)()
		for _, n := range []int{1, 10, 32 << 10, 5 << 20, 3, 128 << 10, 1 << 20, 1} {
			go c.Write(pattern[:n])
			got := make([]byte, n)
			_, err := io.ReadFull(br, got)
			require.NoError(t, err)
			require.True(t, string(got) == string(pattern[:n]), n)
		}
		c.Close()
		noneInFlight(t, b)
	})
}

func TestTunnelIdleTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	e := echo(t)
	eachTunnel(t, func(t *testing.T, start starter) {
		b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
		c, br := start(b, Options{IdleTimeout: time.Second})()
		for range 12 {
			exchangeLine(t, c, br, "x")
		}
		begin := time.Now()
		_, err := br.ReadByte()
		require.ErrorIs(t, err, io.EOF, "closed when nothing moved for a while")
		require.Greater(t, time.Since(begin), 900*time.Millisecond)
		noneInFlight(t, b)
	})
}

// Each side may end first; the other goes on until it ends too.
func TestTunnelHalfClose(t *testing.T) {
	e := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		line, _ := br.ReadString('\n')
		if line == "you first\n" {
			all, _ := io.ReadAll(br)
			fmt.Fprintf(c, "got %q", all)
			return
		}
		io.WriteString(c, "I have ended")
		c.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(br)
		if string(all) != "I have not" {
			t.Errorf("the backend got %q", all)
		}
	})
	eachTunnel(t, func(t *testing.T, start starter) {
		b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
		dial := start(b)
		c, br := dial()
		io.WriteString(c, "you first\nthe end")
		closeWrite(t, c)
		all, err := io.ReadAll(br)
		require.NoError(t, err)
		require.Equal(t, `got "the end"`, string(all))
		noneInFlight(t, b)
		c, br = dial()
		io.WriteString(c, "I first\n")
		all, err = io.ReadAll(br)
		require.NoError(t, err)
		require.Equal(t, "I have ended", string(all))
		require.Equal(t, 1, b.Stats().InFlight)
		io.WriteString(c, "I have not")
		closeWrite(t, c)
		noneInFlight(t, b)
	})
}

// A reset on one side ends the other, also when the first had ended its sending before.
func TestTunnelReset(t *testing.T) {
	seen := make(chan error, 1)
	e := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		line, _ := br.ReadString('\n')
		io.WriteString(c, line)
		if line == "reset\n" {
			br.ReadByte()
			c.(*net.TCPConn).SetLinger(0)
			return
		}
		c.SetReadDeadline(time.Now().Add(lbtest.WaitFor))
		_, err := br.ReadByte()
		if line == "half\n" && err == io.EOF {
			io.WriteString(c, "more\n")
			for err = nil; err == nil; { // there is an end to writing
				_, err = c.Write(make([]byte, 4096))
			}
		}
		seen <- err
	})
	eachTunnel(t, func(t *testing.T, start starter) {
		b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
		dial := start(b)
		reset := func(c net.Conn) {
			if s, ok := c.(*net.TCPConn); ok {
				s.SetLinger(0)
			}
			c.Close()
		}
		c, br := dial()
		exchangeLine(t, c, br, "hello")
		reset(c)
		err := <-seen
		require.Error(t, err)
		require.False(t, socket.IsTimeout(err), "the backend waits")
		noneInFlight(t, b)

		c, br = dial()
		exchangeLine(t, c, br, "half")
		closeWrite(t, c)
		more, err := br.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "more\n", more)
		reset(c)
		require.Error(t, <-seen)
		noneInFlight(t, b)

		c, br = dial()
		exchangeLine(t, c, br, "reset")
		io.WriteString(c, "x")
		_, err = br.ReadByte()
		require.Error(t, err)
		require.False(t, socket.IsTimeout(err), "the client waits")
		noneInFlight(t, b)
	})
}

// Who reads slowly stops who sends: no more is read than is written.
func TestTunnelSlowReader(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	eachTunnel(t, func(t *testing.T, start starter) {
		sent := make(chan int, 1)
		e := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
			c.(*net.TCPConn).SetWriteBuffer(64 << 10)
			c.SetWriteDeadline(time.Now().Add(time.Second))
			n, block := 0, make([]byte, 64<<10)
			for err := error(nil); err == nil && n < 1<<30; {
				for i := range block {
					block[i] = byte((n + i) % 251)
				}
				var m int
				m, err = c.Write(block)
				n += m
			}
			sent <- n
		})
		b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
		c, br := start(b)()
		c.(interface{ SetReadBuffer(int) error }).SetReadBuffer(64 << 10)
		n := <-sent
		require.Less(t, n, 64<<20, "what the sockets hold, not what memory does")
		c.SetDeadline(time.Now().Add(lbtest.WaitFor))
		all, err := io.ReadAll(br)
		require.NoError(t, err)
		require.Len(t, all, n)
		for i, x := range all {
			if x != byte(i%251) {
				t.Fatalf("byte %d is %d", i, x)
			}
		}
		c.Close()
		noneInFlight(t, b)
	})
}

// Streams that never pause leave room for others.
func TestTunnelBulkBesideSmall(t *testing.T) {
	bulk := make([]byte, 1<<20)
	e := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		if line, _ := br.ReadString('\n'); line == "bulk\n" {
			for err := error(nil); err == nil; {
				_, err = c.Write(bulk)
			}
			return
		}
		io.WriteString(c, "small\n")
		io.Copy(c, br)
	})
	eachTunnel(t, func(t *testing.T, start starter) {
		b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
		dial := start(b)
		var streams sync.WaitGroup
		defer streams.Wait()
		for range 3 {
			c, br := dial()
			io.WriteString(c, "bulk\n")
			_, err := br.ReadByte()
			require.NoError(t, err)
			streams.Go(func() { io.Copy(io.Discard, c) })
			defer c.Close()
		}
		c, br := dial()
		exchangeLine(t, c, br, "small")
		for i := range 100 {
			exchangeLine(t, c, br, fmt.Sprint(i))
		}
	})
}

// What Serve does not get rid of by waiting ends when the drain does.
func TestTunnelDrainEnds(t *testing.T) {
	e := echo(t)
	for name, way := range tunnelWays {
		t.Run(name, func(t *testing.T) {
			b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
			var s running
			dial := serve(t, b, way(t), &s, Options{Drain: 50 * time.Millisecond})
			var brs []*bufio.Reader
			for range 5 {
				c, br := dial()
				exchangeLine(t, c, br, "here")
				brs = append(brs, br)
			}
			s.stop(t)
			require.Zero(t, b.Stats().InFlight)
			for _, br := range brs {
				_, err := br.ReadByte()
				require.Error(t, err)
				require.False(t, socket.IsTimeout(err))
			}
		})
	}
}

// A backend that dies takes its tunnels along and nothing else.
func TestTunnelBackendKilled(t *testing.T) {
	eachTunnel(t, func(t *testing.T, start starter) {
		die := make(chan struct{})
		dead := make(chan bool, 10)
		mortal := lbtest.Backend(t, func(_ int, c net.Conn, br *bufio.Reader) {
			go func() { <-die; c.Close(); dead <- true }()
			io.Copy(c, br)
		})
		b := lbtest.New(t, []lb.Endpoint{mortal, echo(t)}, lb.Options{Policy: policy.RoundRobin()})
		dial := start(b)
		type tunnel struct {
			c  net.Conn
			br *bufio.Reader
		}
		var all []tunnel
		for range 10 {
			c, br := dial()
			exchangeLine(t, c, br, "hello")
			all = append(all, tunnel{c, br})
		}
		close(die)
		for range 5 {
			<-dead
		}
		ended := 0
		for _, x := range all {
			io.WriteString(x.c, "still there?\n")
			if _, err := x.br.ReadString('\n'); err != nil {
				require.False(t, socket.IsTimeout(err))
				x.c.Close() // a pump may wait for it: an end is only half of one
				ended++
			}
		}
		require.Equal(t, 5, ended)
		require.Eventually(t, func() bool { return b.Stats().InFlight == 5 }, lbtest.WaitFor, lbtest.Pause)
	})
}

// What came with the PROXY header is the tunnel's first data.
func TestTunnelKeepsBytesBehindProxyHeader(t *testing.T) {
	e := echo(t)
	for name, way := range tunnelWays {
		if name == "unix" {
			continue // no address to trust
		}
		t.Run(name, func(t *testing.T) {
			b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
			dial := serve(t, b, way(t), nil, Options{Accept: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
			for _, early := range []string{"", "early\n", strings.Repeat("long ", 2000) + "\n"} {
				c, br := dial()
				io.WriteString(c, "PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n"+early)
				if early != "" {
					got, err := br.ReadString('\n')
					require.NoError(t, err)
					require.Equal(t, early, got)
				}
				exchangeLine(t, c, br, "late")
				closeWrite(t, c)
				_, err := br.ReadByte()
				require.ErrorIs(t, err, io.EOF)
				c.Close()
			}
			noneInFlight(t, b)
		})
	}
}

// Whoever has come and gone leaves nothing behind.
func TestTunnelsLeaveNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	e := echo(t)
	for name, way := range tunnelWays {
		t.Run(name, func(t *testing.T) {
			goroutines, files := runtime.NumGoroutine(), openFiles()
			b := lbtest.New(t, []lb.Endpoint{e}, lb.Options{})
			var s running
			l := way(t)
			serve(t, b, l, &s)
			at := l.Addr()
			for range exhaustive.N(t, 2, 10) {
				const n = 100
				var wave sync.WaitGroup
				for i := range n {
					wave.Go(func() {
						c, err := net.Dial(at.Network(), at.String())
						if err != nil {
							t.Error(err)
							return
						}
						defer c.Close()
						c.SetDeadline(time.Now().Add(lbtest.WaitFor))
						io.WriteString(c, "hello\n")
						if i%3 == 0 {
							return // before the answer, perhaps before the dial
						}
						if line, err := bufio.NewReader(c).ReadString('\n'); line != "hello\n" {
							t.Error(line, err)
						}
						if i%3 == 1 {
							c.(interface{ CloseWrite() error }).CloseWrite()
							io.Copy(io.Discard, c)
						}
					})
				}
				wave.Wait()
			}
			s.stop(t)
			require.Zero(t, b.Stats().InFlight)
			b.Close()
			require.Eventually(t, func() bool {
				return runtime.NumGoroutine() <= goroutines+5 && openFiles() <= files+5
			}, lbtest.WaitFor, lbtest.Pause)
		})
	}
}

func openFiles() int {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // not on Linux
	}
	return len(es)
}
