package metrics

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLogsCarryIdsAndHideSecrets(t *testing.T) {
	var buf bytes.Buffer
	h := NewLogHandler(slog.NewJSONHandler(&buf, nil), LogOptions{Keep: 3, Groups: 1})
	log := slog.New(h)
	srv := AccessLog(log, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		SetUser(r.Context(), "ada")
		SetSession(r.Context(), "s1")
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
	log := slog.New(NewLogHandler(slog.NewTextHandler(&buf, nil), LogOptions{Sample: 0.1}))
	for range 1000 {
		log.Info("ok")
		log.Error("bad")
	}
	require.Equal(t, 1000, strings.Count(buf.String(), "msg=bad"))
	require.InDelta(t, 100, strings.Count(buf.String(), "msg=ok"), 50)
}

func TestTraceparent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	trace, parent, sampled, ok := ParseTraceparent(good)
	require.True(t, ok)
	require.True(t, sampled)
	require.Equal(t, "00f067aa0ba902b7", parent)
	out := (&IDs{Trace: trace, Sampled: sampled}).Traceparent()
	again, span, sampled, ok := ParseTraceparent(out)
	require.True(t, ok && sampled)
	require.Equal(t, trace, again)
	require.NotEqual(t, parent, span)
	_, _, _, ok = ParseTraceparent("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later")
	require.True(t, ok, "a later version may have more")
	for _, bad := range []string{"", "00", good + "-x", strings.ToUpper(good),
		strings.Replace(good, "4bf92f3577b34da6a3ce929d0e0e4736", strings.Repeat("0", 32), 1),
		strings.Replace(good, "00f067aa0ba902b7", strings.Repeat("0", 16), 1), "ff" + good[2:]} {
		_, _, _, ok := ParseTraceparent(bad)
		require.False(t, ok, bad)
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, s string) {
		if trace, parent, _, ok := ParseTraceparent(s); ok && (len(trace) != 32 || len(parent) != 16) {
			t.Fatal(trace, parent)
		}
	})
}
