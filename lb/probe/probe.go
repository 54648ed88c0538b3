package lb

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// HTTPProbe asks the backend for path over a connection of its own and wants a status from 200 to 399.
func HTTPProbe(path string) Probe {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return func(ctx context.Context, t Target) error {
		c, err := t.open(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: tierkit-lb-check\r\nConnection: close\r\n\r\n", path, t.Addr); err != nil {
			return err
		}
		res, err := http.ReadResponse(bufio.NewReaderSize(c, 1024), nil)
		if err != nil {
			return err
		}
		if res.StatusCode < 200 || res.StatusCode > 399 {
			return fmt.Errorf("lb: check of %s: status %d", path, res.StatusCode)
		}
		_, err = io.CopyN(io.Discard, res.Body, 4<<10) // a backend that dies in mid-answer is not healthy
		if err == io.EOF {
			err = nil
		}
		return err
	}
}

// TCPProbe wants a connection to be accepted.
func TCPProbe() Probe {
	return func(ctx context.Context, t Target) error {
		c, err := t.Dial(ctx, "tcp", t.Addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

func (t Target) open(ctx context.Context) (net.Conn, error) {
	c, err := t.Dial(ctx, "tcp", t.Addr)
	if err != nil || t.Scheme != "https" {
		return c, err
	}
	cfg := &tls.Config{}
	if t.TLS != nil {
		cfg = t.TLS.Clone()
	}
	cfg.NextProtos = []string{"http/1.1"}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(t.Addr)
	}
	tc := tls.Client(c, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return tc, nil
}
