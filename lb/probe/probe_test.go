package probe

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/lb"
)

func TestGRPC(t *testing.T) {
	status, code := byte(1), "0"
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/grpc.health.v1.Health/Check" || r.ProtoMajor != 2 ||
			r.Header.Get("Content-Type") != "application/grpc" || string(in) != "\x00\x00\x00\x00\x05\x0a\x03web" {
			w.WriteHeader(400)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write([]byte{0, 0, 0, 0, 2, 8, status})
		w.Header().Set("Grpc-Status", code)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	target := lb.Target{Endpoint: lb.Endpoint{Addr: s.Listener.Addr().String(), Scheme: "h2c"},
		Dial: (&net.Dialer{}).DialContext}
	require.NoError(t, GRPC("web")(t.Context(), target))
	require.ErrorContains(t, GRPC("other")(t.Context(), target), "400")
	status = 2
	require.ErrorContains(t, GRPC("web")(t.Context(), target), "not serving")
	code = "5"
	require.ErrorContains(t, GRPC("web")(t.Context(), target), "grpc-status")
}

func TestHTTPAndTCP(t *testing.T) {
	var status atomic.Int64
	status.Store(200)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(status.Load()))
	}))
	target := lb.Target{Endpoint: lb.Endpoint{Addr: s.Listener.Addr().String()}, Dial: (&net.Dialer{}).DialContext}
	require.NoError(t, HTTP("/healthz")(t.Context(), target))
	require.NoError(t, TCP()(t.Context(), target))
	status.Store(500)
	require.ErrorContains(t, HTTP("healthz")(t.Context(), target), "500")
	s.Close()
	require.Error(t, HTTP("/")(t.Context(), target))
	require.Error(t, TCP()(t.Context(), target))
}
