package tcp

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
)

func TestProxyHeaders(t *testing.T) {
	for _, c := range []struct{ from, to string }{{"192.0.2.1:1234", "198.51.100.1:80"},
		{"[2001:db8::1]:1234", "[2001:db8::2]:80"}} {
		for version := 1; version <= 2; version++ {
			b := appendProxyHeader(nil, version, netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to))
			r := bufio.NewReader(bytes.NewReader(append(b, "data"...)))
			from, err := readProxyHeader(r)
			require.NoError(t, err)
			require.Equal(t, c.from, from.String())
			rest, _ := io.ReadAll(r)
			require.Equal(t, "data", string(rest))
		}
	}
	for version := 1; version <= 2; version++ { // families that differ can't be told
		from, err := readProxyHeader(bufio.NewReader(
			bytes.NewReader(appendProxyHeader(nil, version, netip.MustParseAddrPort("192.0.2.1:1"),
				netip.MustParseAddrPort("[::1]:1")))))
		require.NoError(t, err)
		require.False(t, from.IsValid())
	}
	for _, bad := range []string{"", "GET / HTTP/1.1\r\n", "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
		"PROXY TCP4 ::1 ::1 1 2\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 99999 1\r\n", "PROXY " + strings.Repeat("x", 200),
		"PROXY UNKNOWN\n", string(proxyV2) + "\x31\x11\x00\x00", string(proxyV2) + "\x21\x11\x00\x04abcd",
		string(proxyV2) + "\x21\x11\xff\xff"} {
		_, err := readProxyHeader(bufio.NewReader(strings.NewReader(bad)))
		require.Error(t, err, bad)
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nrest"))
	f.Add(appendProxyHeader(nil, 2, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")))
	f.Fuzz(func(t *testing.T, in []byte) { readProxyHeader(bufio.NewReader(bytes.NewReader(in))) })
}

func TestProxyProtocolThroughTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.RemoteAddr)
	})}
	go backend.Serve(ProxyListener(l, loopback))
	defer backend.Close()
	b := lbtest.New(t, []lb.Endpoint{{Addr: l.Addr().String()}}, lb.Options{})
	front, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	s := newServer(t, b, Options{Accept: loopback, Send: 2})
	go func() { served <- s.Serve(ctx, front) }()
	talk := func(prefix string) (*http.Response, error) {
		c, err := net.Dial("tcp", front.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		io.WriteString(c, prefix+"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			b, _ := io.ReadAll(res.Body)
			res.Body = io.NopCloser(bytes.NewReader(b))
		}
		return res, err
	}
	for range 3 {
		res, err := talk("PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n")
		require.NoError(t, err)
		body, _ := io.ReadAll(res.Body)
		require.Equal(t, "203.0.113.9:4711", string(body))
	}
	_, err = talk("")
	require.Error(t, err, "without the header that must be there")
	cancel()
	require.NoError(t, <-served)
}
