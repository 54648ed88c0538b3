package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/metrics/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogsCarryIdsAndHideSecrets(t *testing.T) {
	var buf bytes.Buffer
	h := NewHandler(slog.NewJSONHandler(&buf, nil), HandlerOptions{Keep: 3, Groups: 1})
	log := slog.New(h)
	srv := trace.AccessLog(log, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trace.SetUser(r.Context(), "ada")
		trace.SetSession(r.Context(), "s1")
		log.With("Token", "abc").WithGroup("form").InfoContext(r.Context(), "login", "password", "hunter2",
			slog.Group("inner", "secret", "x", "name", "y"))
		w.WriteHeader(500)
	}))
	req := httptest.NewRequest("GET", "/login", nil)
	req.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	req.Header.Set("X-Request-Id", "req-1")
	rec := httptest.NewRecorder()
	srv.ServeHTTP(rec, req)
	require.Equal(t, "req-1", rec.Header().Get("X-Request-Id"))
	require.NotContains(t, buf.String(), "hunter2")
	require.NotContains(t, buf.String(), "abc")

	recent := h.Recent()
	require.Len(t, recent, 2)
	require.Equal(t, "[redacted]", recent[0].Attrs["form.password"])
	require.Equal(t, "[redacted]", recent[0].Attrs["Token"])
	require.Equal(t, "[redacted]", recent[0].Attrs["form.inner.secret"])
	require.Equal(t, "y", recent[0].Attrs["form.inner.name"])
	require.Equal(t, "req-1", recent[0].Attrs["request_id"], "whatever group it was logged in")
	last := recent[1]
	require.Equal(t, "ERROR", last.Level)
	for k, v := range map[string]string{"request_id": "req-1", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
		"user_id": "ada", "session_id": "s1", "path": "/login", "status": "500"} {
		require.Equal(t, v, last.Attrs[k], k)
	}
	for line := range strings.Lines(buf.String()) {
		require.NoError(t, json.Unmarshal([]byte(line), &map[string]any{}))
	}

	log.Error("disk full", "err", "no space")
	log.Error("disk full", "err", "still no space")
	groups := map[string]int{}
	for _, g := range h.Errors() {
		groups[g.Message] = g.Count
	}
	require.Equal(t, map[string]int{"request": 1, "other": 2}, groups, "groups are capped")
	require.Len(t, h.Recent(), 3)
	require.Equal(t, "still no space", h.Recent()[2].Attrs["err"])
}

func TestSamplingKeepsErrors(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(NewHandler(slog.NewTextHandler(&buf, nil), HandlerOptions{Sample: 0.1}))
	for range 1000 {
		log.Info("ok")
		log.Error("bad")
	}
	require.Equal(t, 1000, strings.Count(buf.String(), "msg=bad"))
	require.InDelta(t, 100, strings.Count(buf.String(), "msg=ok"), 50)
}

func TestSamplingKeepsTracesWhole(t *testing.T) {
	h := NewHandler(slog.NewTextHandler(io.Discard, nil), HandlerOptions{Sample: 0.2, Keep: 100_000})
	log := slog.New(h)
	for i := range 2000 {
		ctx := trace.With(t.Context(), &trace.IDs{Trace: fmt.Sprintf("%032x", i)})
		for range 5 {
			log.InfoContext(ctx, "step")
		}
	}
	traces := map[string]int{}
	for _, r := range h.Recent() {
		traces[r.Attrs["trace_id"]]++
	}
	require.InDelta(t, 400, len(traces), 100)
	for id, n := range traces {
		require.Equal(t, 5, n, id)
	}
}

func TestLevelAtRunTime(t *testing.T) {
	var buf bytes.Buffer
	h := NewHandler(slog.NewJSONHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}), HandlerOptions{})
	log := slog.New(h)
	log.Debug("seen, as the wrapped handler wants it")
	set := func(method, level string) (int, string) {
		rec := httptest.NewRecorder()
		h.ServeLevel(rec, httptest.NewRequest(method, "/?level="+level, nil))
		return rec.Code, strings.TrimSpace(rec.Body.String())
	}
	code, level := set("PUT", "warn")
	require.Equal(t, 200, code)
	require.Equal(t, "WARN", level)
	log.Info("unseen")
	log.With("a", 1).WithGroup("g").Info("unseen too")
	code, body := set("POST", "loud")
	require.Equal(t, 400, code)
	require.Contains(t, body, `"level"`)
	_, level = set("GET", "debug")
	require.Equal(t, "WARN", level, "a GET changes nothing")
	require.Equal(t, 1, strings.Count(buf.String(), "\n"))
}

func TestAttrsHookCannotBreakALogLine(t *testing.T) {
	var buf bytes.Buffer
	h := NewHandler(slog.NewTextHandler(&buf, nil), HandlerOptions{Attrs: func(context.Context) []slog.Attr {
		panic("no span")
	}})
	slog.New(h).Info("kept", "n", 7)
	require.Contains(t, buf.String(), "msg=kept n=7")
	require.Contains(t, buf.String(), "no span")
	require.Len(t, h.Recent(), 1)
}
