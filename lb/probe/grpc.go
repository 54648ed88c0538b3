package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/tierkit/tierkit/lb"
)

// GRPC asks the standard health service (grpc.health.v1.Health/Check) about a service ("" for the server as a
// whole) and wants SERVING. The two messages are written and read by hand, so that nothing of gRPC is imported. For
// "https" endpoints it uses TLS, for all others HTTP/2 in the clear.
func GRPC(service string) lb.Probe {
	return func(ctx context.Context, t lb.Target) error {
		tr, scheme := grpcTransport(t)
		defer tr.CloseIdleConnections()
		req, err := grpcRequest(ctx, scheme+"://"+t.Addr, service)
		if err != nil {
			return err
		}
		res, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		return grpcServing(res, service)
	}
}

func grpcTransport(t lb.Target) (tr *http.Transport, scheme string) {
	tr = &http.Transport{DialContext: t.Dial, Protocols: new(http.Protocols), DisableKeepAlives: true}
	if t.Scheme != "https" {
		tr.Protocols.SetUnencryptedHTTP2(true)
		return tr, "http"
	}
	tr.Protocols.SetHTTP2(true)
	if t.TLS != nil {
		tr.TLSClientConfig = t.TLS.Clone()
	}
	return tr, "https"
}

// grpcRequest makes the call with HealthCheckRequest{string service = 1}, behind gRPC's prefix of a flag and a length.
func grpcRequest(ctx context.Context, base, service string) (*http.Request, error) {
	var msg []byte
	if service != "" {
		msg = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service))), service...)
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/grpc.health.v1.Health/Check",
		bytes.NewReader(frame))
	if err != nil {
		return nil, err
	}
	req.Header["Content-Type"], req.Header["Te"] = []string{"application/grpc"}, []string{"trailers"}
	return req, nil
}

// grpcServing wants HealthCheckResponse{ServingStatus status = 1} with SERVING, which is 1.
func grpcServing(res *http.Response, service string) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return err
	}
	code := res.Trailer.Get("Grpc-Status")
	if code == "" {
		code = res.Header.Get("Grpc-Status") // an answer of trailers only
	}
	if res.StatusCode != http.StatusOK || code != "0" {
		return fmt.Errorf("probe: gRPC check of %q: status %d, grpc-status %q", service, res.StatusCode, code)
	}
	if len(body) < 5 || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 {
		return errors.New("probe: gRPC check: malformed answer")
	}
	if m := body[5:]; len(m) < 2 || m[0] != 1<<3 || m[1] != 1 {
		return fmt.Errorf("probe: gRPC check of %q: not serving", service)
	}
	return nil
}
