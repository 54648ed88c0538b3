package lb

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sockets is a connection of the pool and the backend's side of it.
func sockets(t *testing.T) (*conn, *net.TCPConn) {
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
		c    *conn
		peer net.Conn
	}{"socket": {socket, peer}, "no socket": {newConn(piped), end}} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				side.c.ask([]byte("question"))
				require.True(t, side.c.unsent())
				go func() {
					got := make([]byte, 8)
					io.ReadFull(side.peer, got)
					side.peer.Write(bytes.ToUpper(got))
				}()
				got := make([]byte, 8)
				_, err := io.ReadFull(side.c.br, got)
				require.NoError(t, err)
				require.Equal(t, "QUESTION", string(got))
				require.False(t, side.c.unsent())
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
	c.ask([]byte("question"))
	go func() {
		io.ReadFull(peer, make([]byte, 8))
		peer.Write([]byte(" and late"))
	}()
	got := make([]byte, 14)
	_, err = io.ReadFull(c.br, got)
	require.NoError(t, err)
	require.Equal(t, "early and late", string(got))
}

func TestAskInVain(t *testing.T) {
	for name, spoil := range map[string]func(c *conn, peer *net.TCPConn){
		"reset":  func(c *conn, peer *net.TCPConn) { peer.SetLinger(0); peer.Close() },
		"closed": func(c *conn, _ *net.TCPConn) { c.Close() },
		"late":   func(c *conn, _ *net.TCPConn) { c.SetReadDeadline(time.Unix(1, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := sockets(t)
			spoil(c, peer)
			if name == "reset" {
				require.Eventually(t, func() bool { return !c.reusable(true) }, waitFor, pause)
			}
			c.ask([]byte("question"))
			_, err := c.head()
			require.Error(t, err)
			require.True(t, c.unsent(), "so that it may be sent again elsewhere")
		})
	}
}

// A question that there is no room for at once goes out in pieces.
func TestAskInPieces(t *testing.T) {
	const size = 512 << 10
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &httptest.Server{Listener: l, Config: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			io.WriteString(w, strconv.FormatInt(n, 10))
		})}}
	s.Start()
	t.Cleanup(s.Close)
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t, []Endpoint{{Addr: l.Addr().String()}}, Options{
				Retry: Retry{MaxBody: size},
				Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
					if err == nil {
						c.(*net.TCPConn).SetWriteBuffer(16 << 10)
					}
					return c, err
				},
			})
			url, client := way(t, b)
			for range 2 {
				res, err := client.Post(url, "text/plain", bytes.NewReader(make([]byte, size)))
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				require.NoError(t, err)
				require.Equal(t, strconv.Itoa(size), string(body))
			}
		})
	}
}

// The pool looks after connections whose client may leave: it closes them, and nobody else gets one that is to be
// closed.
func TestBusyConnections(t *testing.T) {
	e, _ := serve(t, "a", func(http.ResponseWriter, *http.Request) {})
	b := newBalancer(t, []Endpoint{e}, Options{})
	p := &b.Backends()[0].pool
	take := func(ctx context.Context) *conn {
		c, err := p.get(ctx, true, true)
		require.NoError(t, err)
		return c
	}
	idle := func() int { n, _ := p.stats(); return n }

	c := take(t.Context())
	p.sweepBusy()
	p.put(c)
	require.Equal(t, 1, idle(), "its client stayed")

	ctx, leave := context.WithCancel(t.Context())
	c = take(ctx)
	require.Zero(t, idle())
	leave()
	p.sweepBusy()
	p.put(c) // done just then
	require.Zero(t, idle(), "another request would lose it")
	require.Error(t, c.SetReadDeadline(time.Time{}), "closed")

	ctx, leave = context.WithCancel(t.Context())
	first, second, third := take(ctx), take(t.Context()), take(ctx)
	ended := make(chan error, 1)
	go func() { // by itself, while somebody waits
		_, err := third.br.Peek(1)
		ended <- err
	}()
	p.drop(first)
	leave()
	require.ErrorIs(t, <-ended, net.ErrClosed)
	p.drop(third)
	p.put(second)
	require.Equal(t, 1, idle())
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.busy) == 0 && p.sweep == nil
	}, waitFor, pause, "nothing is looked at in vain")
}

// Many are looked at in parts; what is in no part is closed all the same.
func TestManyBusyConnections(t *testing.T) {
	p := &connPool{}
	p.init("192.0.2.1:80", &Options{})
	ctx, leave := context.WithCancel(t.Context())
	var all []*conn
	for i := range 2*sweepAtOnce + 10 {
		nc, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		c := newConn(nc)
		p.mu.Lock()
		if p.look(c, t.Context()); i%3 == 0 {
			c.ctx = ctx
		}
		p.mu.Unlock()
		all = append(all, c)
	}
	for _, c := range all[5:20] {
		p.drop(c)
	}
	leave()
	p.sweepBusy()
	for i, c := range all {
		closed := func() bool { return c.Conn.SetDeadline(time.Time{}) != nil }
		if i%3 == 0 || i >= 5 && i < 20 {
			require.Eventually(t, closed, waitFor, pause, "%d", i) // a sweep of the pool's own may be at it
		} else {
			require.False(t, closed(), "%d", i)
		}
		p.drop(c)
	}
	require.Eventually(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.sweep == nil }, waitFor, pause)
}

// A client that leaves ends its request at the backend, whatever its context is made of.
func TestLeavingClientEndsTheBackendsRequest(t *testing.T) {
	for name, o := range map[string]Options{"looked at": {}, "with a deadline": {},
		"hedged": {Hedge: Hedge{After: time.Hour}}} {
		t.Run(name, func(t *testing.T) {
			came, went := make(chan struct{}), make(chan struct{})
			e, _ := serve(t, "a", func(_ http.ResponseWriter, r *http.Request) {
				close(came)
				<-r.Context().Done()
				close(went)
			})
			b := newBalancer(t, []Endpoint{e}, o)
			ctx, leave := context.WithCancel(t.Context())
			if name == "with a deadline" {
				ctx, leave = context.WithTimeout(t.Context(), time.Hour)
			}
			defer leave()
			served := make(chan struct{})
			go func() {
				defer close(served)
				b.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
			}()
			<-came
			leave()
			<-went
			<-served
			require.Zero(t, b.Backends()[0].InFlight())
		})
	}
}

func TestStandingDeadline(t *testing.T) {
	c, peer := sockets(t)
	c.within(time.Minute)
	first := c.standing.Load()
	require.NotZero(t, first)
	c.within(time.Minute)
	require.Equal(t, first, c.standing.Load(), "it will do")
	c.within(2 * time.Minute)
	longer := c.standing.Load()
	require.Greater(t, longer, first)
	c.within(time.Minute)
	require.Less(t, c.standing.Load(), longer, "it would be too long")
	c.untimed()
	require.Zero(t, c.standing.Load())

	// One that passes while nobody reads does not make the connection useless.
	c.within(time.Nanosecond)
	require.True(t, c.reusable(true))
	require.Zero(t, c.standing.Load())
	c.SetReadDeadline(time.Unix(1, 0))
	require.True(t, c.reusable(true))
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.br.Peek(1)
	require.NoError(t, err)

	c, _ = sockets(t)
	c.within(time.Millisecond)
	_, err = c.br.Peek(1)
	require.True(t, isTimeout(err), "%v", err)
}

// The time that the request before had for its answer does not end an upload.
func TestUploadWithoutTheDeadlineOfBefore(t *testing.T) {
	reading := make(chan struct{}, 2)
	e, _ := serve(t, "a", func(w http.ResponseWriter, r *http.Request) {
		reading <- struct{}{}
		io.Copy(w, r.Body)
	})
	b := newBalancer(t, []Endpoint{e}, Options{})
	url, client := front(t, b)
	res, err := client.Get(url)
	require.NoError(t, err)
	res.Body.Close()
	<-reading
	p := &b.Backends()[0].pool
	var c *conn
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.idle) > 0 {
			c = p.idle[0]
		}
		return c != nil
	}, waitFor, pause)
	require.NotZero(t, c.standing.Load())
	body, more := io.Pipe()
	done := make(chan error, 1)
	go func() {
		res, err := client.Post(url, "text/plain", body)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		done <- err
	}()
	_, err = more.Write([]byte("a"))
	require.NoError(t, err)
	<-reading
	require.Zero(t, c.standing.Load())
	more.Close()
	require.NoError(t, <-done)
	_, dials := p.stats()
	require.Equal(t, uint64(1), dials, "on the same connection")
}
