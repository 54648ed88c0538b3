package httpwrap

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/race"
)

// serve runs h behind a Writer on a real connection and returns the Writer once the handler is done.
func serve(t *testing.T, before func(*Writer) func(int) int, h http.HandlerFunc) (*httptest.Server, <-chan *Writer) {
	done := make(chan *Writer, 8)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ww := Wrap(w)
		if before != nil {
			ww.Before = before(ww)
		}
		defer func() { done <- ww }()
		h(ww, r)
		ww.Finish()
	}))
	t.Cleanup(s.Close)
	return s, done
}

func get(t *testing.T, url string) (*http.Response, string) {
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(b)
}

func TestBeforeRunsOnceWhateverTheHandlerDoes(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"nothing":     func(w http.ResponseWriter, r *http.Request) {},
		"write":       func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "a"); io.WriteString(w, "b") },
		"writeheader": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200); io.WriteString(w, "ab") },
		"flush": func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			io.WriteString(w, "ab")
		},
		"controller": func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, http.NewResponseController(w).Flush())
			require.NoError(t, http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)))
		},
		"readfrom": func(w http.ResponseWriter, r *http.Request) {
			w.(io.ReaderFrom).ReadFrom(strings.NewReader("ab"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			s, done := serve(t, func(w *Writer) func(int) int {
				return func(status int) int { calls++; w.Header().Set("X-Cookie", "set"); return 0 }
			}, h)
			res, body := get(t, s.URL)
			w := <-done
			require.Equal(t, "set", res.Header.Get("X-Cookie"))
			require.Equal(t, 200, w.Status)
			require.EqualValues(t, len(body), w.Written)
			require.Equal(t, 1, calls)
		})
	}
}

func TestBeforeReplacesTheAnswer(t *testing.T) {
	s, done := serve(t, func(*Writer) func(int) int { return func(int) int { return http.StatusServiceUnavailable } },
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "6")
			n, err := io.WriteString(w, "secret")
			require.NoError(t, err)
			require.Equal(t, 6, n)
		})
	res, body := get(t, s.URL)
	require.Equal(t, 503, res.StatusCode)
	require.Equal(t, "Service Unavailable\n", body)
	require.Equal(t, 503, (<-done).Status)
}

func TestInformationalPassesBy(t *testing.T) {
	s, done := serve(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
	})
	var hints []int
	req, _ := http.NewRequest("GET", s.URL, nil)
	req = req.WithContext(httptrace.WithClientTrace(t.Context(),
		&httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			hints = append(hints, code)
			return nil
		}}))
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, []int{103}, hints)
	require.Equal(t, http.StatusTeapot, res.StatusCode)
	require.Equal(t, http.StatusTeapot, (<-done).Status)
}

func TestHijack(t *testing.T) {
	var told observer
	s, done := serve(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.(*Writer).Observer = &told
		c, _, err := http.NewResponseController(w).Hijack()
		require.NoError(t, err)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		c.Close()
	})
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	b, _ := io.ReadAll(res.Body)
	require.Equal(t, "hi", string(b))
	require.Equal(t, -1, (<-done).Status)
	require.Equal(t, observer{gone: 1}, told)

	_, _, err = Wrap(httptest.NewRecorder()).Hijack()
	require.ErrorIs(t, err, http.ErrNotSupported)
}

func TestServeFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "big")
	require.NoError(t, os.WriteFile(name, make([]byte, 1<<20), 0o600))
	s, done := serve(t, nil, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) })
	_, body := get(t, s.URL)
	require.Len(t, body, 1<<20)
	require.EqualValues(t, 1<<20, (<-done).Written)
}

func TestPooledWriterDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		return // counted in the build without the detector
	}
	rec := httptest.NewRecorder()
	rec.Body = nil
	require.Zero(t, testing.AllocsPerRun(100, func() {
		w := Get(rec)
		w.Write(nil)
		Put(w)
	}))
}

type observer struct{ before, gone int }

func (o *observer) BeforeHeader() { o.before++ }
func (o *observer) HeaderGone()   { o.gone++ }

func TestObserver(t *testing.T) {
	for _, h := range []http.HandlerFunc{
		func(w http.ResponseWriter, r *http.Request) {},
		func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(200)
			io.WriteString(w, "x")
		},
		func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "x"); w.(http.Flusher).Flush() },
	} {
		var o observer
		w := Wrap(httptest.NewRecorder())
		w.Observer = &o
		h(w, nil)
		w.Finish()
		require.Equal(t, observer{before: 1}, o)
	}
}
