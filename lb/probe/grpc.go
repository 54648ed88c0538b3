package lb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// GRPCProbe asks the standard health service (grpc.health.v1.Health/Check) about a service ("" for the server as a
// whole) and wants SERVING. The two messages are written and read by hand, so that nothing of gRPC is imported. For
// "https" endpoints it uses TLS, for all others HTTP/2 in the clear.
func GRPCProbe(service string) Probe {
	return func(ctx context.Context, t Target) error {
		tr := &http.Transport{DialContext: t.Dial, Protocols: new(http.Protocols), DisableKeepAlives: true}
		defer tr.CloseIdleConnections()
		scheme := "http"
		if t.Scheme == "https" {
			scheme = "https"
			tr.Protocols.SetHTTP2(true)
			if t.TLS != nil {
				tr.TLSClientConfig = t.TLS.Clone()
			}
		} else {
			tr.Protocols.SetUnencryptedHTTP2(true)
		}
		// HealthCheckRequest{string service = 1}, behind gRPC's prefix of a flag and a length
		var msg []byte
		if service != "" {
			msg = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service))), service...)
		}
		frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+t.Addr+"/grpc.health.v1.Health/Check",
			bytes.NewReader(frame))
		if err != nil {
			return err
		}
		req.Header["Content-Type"], req.Header["Te"] = []string{"application/grpc"}, []string{"trailers"}
		res, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
		if err != nil {
			return err
		}
		code := res.Trailer.Get("Grpc-Status")
		if code == "" {
			code = res.Header.Get("Grpc-Status") // an answer of trailers only
		}
		if res.StatusCode != http.StatusOK || code != "0" {
			return fmt.Errorf("lb: gRPC check of %q: status %d, grpc-status %q", service, res.StatusCode, code)
		}
		// HealthCheckResponse{ServingStatus status = 1}; SERVING is 1
		if len(body) < 5 || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-5 {
			return errors.New("lb: gRPC check: malformed answer")
		}
		if m := body[5:]; len(m) < 2 || m[0] != 1<<3 || m[1] != 1 {
			return fmt.Errorf("lb: gRPC check of %q: not serving", service)
		}
		return nil
	}
}
