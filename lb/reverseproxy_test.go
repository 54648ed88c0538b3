package lb

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What net/http/httputil.ReverseProxy documents or is known to guarantee, of the handler and of the front. What the
// conformance suite asks of every proxy (flushing, trailers, cancellation, 1xx, hop fields) is not repeated here.
func TestReverseProxysGuarantees(t *testing.T) {
	heads := make(chan string, 1)
	answer := make(chan string, 1)
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
			var head strings.Builder
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				head.WriteString(line)
				if line == "\r\n" {
					break
				}
			}
			heads <- head.String()
			a := <-answer
			io.WriteString(c, a)
			if strings.Contains(a, "Connection: close") || strings.Contains(a, " 101 ") {
				return
			}
		}
	})
	modes := map[string]func(*testing.T, *Balancer) string{
		"handler": func(t *testing.T, b *Balancer) string {
			url, _ := front(t, b)
			return url[len("http://"):]
		},
		"front": func(t *testing.T, b *Balancer) string {
			_, addr := serveFront(t, b, FrontOptions{})
			return addr
		},
	}
	for name, start := range modes {
		t.Run(name, func(t *testing.T) {
			addr := start(t, newBalancer(t, []Endpoint{e}, Options{Outlier: Outlier{Disabled: true}}))
			ask := func(t *testing.T, request, with string) (head string, res *http.Response, body string, err error) {
				t.Helper()
				c, br := dialFront(t, addr)
				defer c.Close()
				io.WriteString(c, request)
				head = <-heads
				answer <- with
				if res, err = http.ReadResponse(br, nil); err != nil {
					return head, nil, "", err
				}
				b, err := io.ReadAll(res.Body)
				return head, res, string(b), err
			}
			const get = "GET / HTTP/1.1\r\nHost: site.example\r\n"

			t.Run("an empty first Connection field hides nothing (CVE-2021-33197)", func(t *testing.T) {
				head, _, _, err := ask(t, get+"Connection:\r\nConnection: X-Private\r\nX-Private: a\r\n\r\n", ok)
				require.NoError(t, err)
				require.NotContains(t, head, "X-Private")
			})
			t.Run("no User-Agent stays none", func(t *testing.T) {
				head, _, _, err := ask(t, get+"\r\n", ok)
				require.NoError(t, err)
				require.NotContains(t, strings.ToLower(head), "user-agent")
			})
			t.Run("Host passes, X-Forwarded-* are set", func(t *testing.T) {
				head, _, _, err := ask(t, get+"\r\n", ok)
				require.NoError(t, err)
				for _, want := range []string{"Host: site.example\r\n", "X-Forwarded-Host: site.example\r\n",
					"X-Forwarded-Proto: http\r\n", "X-Forwarded-For: 127.0.0.1\r\n"} {
					require.Contains(t, head, want)
				}
			})
			// ReverseProxy drops parts of a query that it can't parse
			t.Run("paths and queries pass as they were sent", func(t *testing.T) {
				for _, target := range []string{"/a%2Fb", "/a//b", "/?a=1;b=2", "/?a=%zz", "/?", "/a/../b",
					"/%20?x=%20"} {
					head, _, _, err := ask(t, "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n", ok)
					require.NoError(t, err)
					require.True(t, strings.HasPrefix(head, "GET "+target+" HTTP/1.1\r\n"), head)
				}
			})
			t.Run("no body is announced for a request without one (golang/go#16036)", func(t *testing.T) {
				head, _, _, err := ask(t, get+"\r\n", ok)
				require.NoError(t, err)
				require.NotContains(t, head, "Transfer-Encoding")
				require.NotContains(t, head, "Content-Length")
			})
			t.Run("trailers that were not announced pass", func(t *testing.T) {
				_, res, body, err := ask(t, get+"TE: trailers\r\n\r\n",
					"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n")
				require.NoError(t, err)
				require.Equal(t, "ok", body)
				require.Equal(t, "1", res.Trailer.Get("X-Late"))
			})
			t.Run("a type that the backend did not give is not guessed", func(t *testing.T) {
				_, res, _, err := ask(t, get+"\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
				require.NoError(t, err)
				require.Empty(t, res.Header["Content-Type"])
			})
			t.Run("several Set-Cookie fields stay several", func(t *testing.T) {
				_, res, _, err := ask(t, get+"\r\n",
					"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n")
				require.NoError(t, err)
				require.Equal(t, []string{"a=1", "b=2"}, res.Header["Set-Cookie"])
			})
			t.Run("a body that breaks off is broken off", func(t *testing.T) {
				_, _, _, err := ask(t, get+"\r\n",
					"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc")
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			})
			t.Run("a switch to another protocol than was asked for is a 502", func(t *testing.T) {
				_, res, _, err := ask(t, get+"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
					"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
				require.NoError(t, err)
				require.Equal(t, http.StatusBadGateway, res.StatusCode)
			})
			t.Run("so is a switch that nobody asked for", func(t *testing.T) {
				_, res, _, err := ask(t, get+"X-A: b\r\n\r\n",
					"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
				require.NoError(t, err)
				require.Equal(t, http.StatusBadGateway, res.StatusCode)
			})
		})
	}
}

// Within a server of the user's own, a broken body is told by the panic that net/http and its middlewares know.
func TestBrokenBodyAbortsTheHandler(t *testing.T) {
	e := fakeBackend(t, func(_ int, c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		}
	})
	h := newBalancer(t, []Endpoint{e}, Options{}).Handler()
	defer func() {
		err, _ := recover().(error)
		require.True(t, errors.Is(err, http.ErrAbortHandler), "%v", err)
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}
