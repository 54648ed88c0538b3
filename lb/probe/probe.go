// Package probe holds the checks that say whether a backend serves, for lb.Health.Probe.
//
//	lb.Options{Health: lb.Health{Probe: probe.HTTP("/healthz")}}
package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/tierkit/tierkit/lb"
)

// HTTP asks the backend for path, over a new connection each time, and wants a status from 200 to 399.
func HTTP(path string) lb.Probe {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return func(ctx context.Context, t lb.Target) error {
		c, err := open(ctx, t)
		if err != nil {
			return err
		}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		const request = "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: tierkit-lb-check\r\nConnection: close\r\n\r\n"
		if _, err := fmt.Fprintf(c, request, path, t.Addr); err != nil {
			return err
		}
		res, err := http.ReadResponse(bufio.NewReaderSize(c, 1024), nil)
		if err != nil {
			return err
		}
		if res.StatusCode < 200 || res.StatusCode > 399 {
			return fmt.Errorf("probe: check of %s: status %d", path, res.StatusCode)
		}
		_, err = io.CopyN(io.Discard, res.Body, 4<<10) // a backend that dies in mid-answer is not healthy
		if err == io.EOF {
			err = nil
		}
		return err
	}
}

// TCP wants a connection to be accepted.
func TCP() lb.Probe {
	return func(ctx context.Context, t lb.Target) error {
		c, err := t.Dial(ctx, "tcp", t.Addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// open connects to the backend, with TLS for "https".
func open(ctx context.Context, t lb.Target) (net.Conn, error) {
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
