package lb

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGRPCProbe(t *testing.T) {
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
	target := Target{Endpoint: Endpoint{Addr: s.Listener.Addr().String(), Scheme: "h2c"},
		Dial: (&net.Dialer{}).DialContext}
	require.NoError(t, GRPCProbe("web")(t.Context(), target))
	require.ErrorContains(t, GRPCProbe("other")(t.Context(), target), "400")
	status = 2
	require.ErrorContains(t, GRPCProbe("web")(t.Context(), target), "not serving")
	code = "5"
	require.ErrorContains(t, GRPCProbe("web")(t.Context(), target), "grpc-status")
}
