package slo

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics(t, "shop")
		var log strings.Builder
		var fail error
		p, err := NewProbe(m, ProbeOptions{SLO: "available", Region: "eu", Interval: time.Second, Logger: slog.New(
			slog.NewTextHandler(&log, nil)), Check: func(context.Context) error { return fail }})
		require.NoError(t, err)
		require.NotContains(t, scrape(t, m), "slo_probe_success", "nothing is known yet")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(10*time.Second + time.Millisecond)
		require.Contains(t, scrape(t, m), `shop_slo_probe_success{slo="available",region="eu"} 1`)
		synctest.Wait()
		fail = errors.New("connection refused")
		time.Sleep(90 * time.Second)
		require.Contains(t, scrape(t, m), `shop_slo_probe_success{slo="available",region="eu"} 0`)
		s := p.Stats()
		require.EqualValues(t, 90, s.Failures)
		require.Equal(t, "connection refused", s.LastError)
		synctest.Wait()
		fail = nil
		time.Sleep(2 * time.Second)
		require.True(t, p.Stats().Up)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Equal(t, 2, strings.Count(log.String(), "a probe failed"), "once a minute: %s", log.String())
		require.Equal(t, 1, strings.Count(log.String(), "succeeds again"))
		_, err = NewProbe(m, ProbeOptions{SLO: "available", Region: "eu", Check: func(context.Context) error {
			return nil
		}})
		require.ErrorContains(t, err, "already")
	})
}

// A check that panics, ends its goroutine or ignores its context has failed, and the probe goes on.
func TestBrokenProbe(t *testing.T) {
	for name, check := range map[string]func(context.Context) error{
		"panics": func(context.Context) error { panic("no") },
		"exits":  func(context.Context) error { runtime.Goexit(); return nil },
		"hangs":  func(context.Context) error { time.Sleep(time.Hour); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := NewProbe(newMetrics(t, ""), ProbeOptions{SLO: "x", Region: "eu", Interval: time.Second,
					Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Check: check})
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go p.Run(ctx)
				time.Sleep(20 * time.Second)
				require.Greater(t, p.Stats().Failures, uint64(8))
				require.False(t, p.Stats().Up)
				cancel()
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

func TestProbeOptions(t *testing.T) {
	m := newMetrics(t, "")
	good := ProbeOptions{SLO: "x", Region: "eu", Check: func(context.Context) error { return nil }}
	for field, change := range map[string]func(*ProbeOptions){
		"SLO":      func(o *ProbeOptions) { o.SLO = "Bad Name" },
		"Region":   func(o *ProbeOptions) { o.Region = "" },
		"Check":    func(o *ProbeOptions) { o.Check = nil },
		"Interval": func(o *ProbeOptions) { o.Interval = -time.Second },
		"Timeout":  func(o *ProbeOptions) { o.Timeout = time.Hour },
	} {
		o := good
		change(&o)
		_, err := NewProbe(m, o)
		require.ErrorContains(t, err, "ProbeOptions."+field)
	}
	_, err := NewProbe(m, good)
	require.NoError(t, err)
	_, err = HTTPCheck("shop.example")
	require.Error(t, err)
	_, err = DNSCheck("127.0.0.1", "shop.example")
	require.Error(t, err)
	_, err = DNSCheck("127.0.0.1:53", "")
	require.Error(t, err)
}

func TestChecks(t *testing.T) {
	status := 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	check, err := HTTPCheck(srv.URL)
	require.NoError(t, err)
	require.NoError(t, check(t.Context()))
	status = 503
	require.ErrorContains(t, check(t.Context()), "503")
	srv.Close()
	require.Error(t, check(t.Context()))

	l, err := net.ListenPacket("udp", "127.0.0.1:0") // a name server that never answers
	require.NoError(t, err)
	defer l.Close()
	dns, err := DNSCheck(l.LocalAddr().String(), "shop.example")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.Error(t, dns(ctx))
}
