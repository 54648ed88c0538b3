package lb

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
				handlerOf(t, b).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
			}()
			<-came
			leave()
			<-went
			<-served
			require.Zero(t, b.Backends()[0].InFlight())
		})
	}
}

// deadlines records the read deadline of a connection.
type deadlines struct {
	*net.TCPConn
	read atomic.Pointer[time.Time]
}

func (d *deadlines) NetConn() net.Conn { return d.TCPConn }

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read.Store(&t)
	return d.TCPConn.SetReadDeadline(t)
}

func (d *deadlines) timed() bool { t := d.read.Load(); return t != nil && !t.IsZero() }

// The time that the request before had for its answer does not end an upload.
func TestUploadWithoutTheDeadlineOfBefore(t *testing.T) {
	reading := make(chan struct{}, 2)
	e, _ := serve(t, "a", func(w http.ResponseWriter, r *http.Request) {
		reading <- struct{}{}
		io.Copy(w, r.Body)
	})
	var c *deadlines
	b := newBalancer(t, []Endpoint{e}, Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c = &deadlines{TCPConn: nc.(*net.TCPConn)}
		return c, nil
	}})
	url, client := front(t, b)
	res, err := client.Get(url)
	require.NoError(t, err)
	res.Body.Close()
	<-reading
	idle := func() bool { return b.Stats().Backends[0].Idle == 1 }
	require.Eventually(t, idle, waitFor, pause)
	require.True(t, c.timed())
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
	require.False(t, c.timed())
	more.Close()
	require.NoError(t, <-done)
	require.Equal(t, uint64(1), b.Stats().Backends[0].Dials, "on the same connection")
}
