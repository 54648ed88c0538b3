package security

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/slo"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/token"
)

func newMetrics(t *testing.T) *metrics.Metrics {
	m, err := metrics.New(metrics.Options{NoRuntime: true, Namespace: "shop"})
	require.NoError(t, err)
	return m
}

func scrape(t *testing.T, m *metrics.Metrics) string {
	page, _ := m.Scrape("")
	return string(page)
}

func TestSecurityEvents(t *testing.T) {
	var buf bytes.Buffer
	m := newMetrics(t)
	s, err := New(m, Options{Kinds: []string{"coupon-guessing"}, Keep: 3,
		Logger: slog.New(slog.NewTextHandler(&buf, nil))})
	require.NoError(t, err)
	out := scrape(t, m)
	require.Contains(t, out, `shop_security_events_total{kind="login-failed"} 0`, "a rate needs a start")
	s.Report(t.Context(), LoginFailed, "ada")
	s.Report(t.Context(), "bad-cookie", "") // as package session says it
	s.Report(t.Context(), "login", "ada")   // which is nothing to worry about
	s.ReportDetail(t.Context(), "coupon-guessing", "eve", "17 codes")
	for range 100 {
		s.Report(t.Context(), "made\nup by somebody", "eve")
	}
	out = scrape(t, m)
	for _, line := range []string{`{kind="login-failed"} 1`, `{kind="bad-cookie"} 1`, `{kind="coupon-guessing"} 1`,
		`{kind="other"} 100`} {
		require.Contains(t, out, "shop_security_events_total"+line)
	}
	require.Len(t, s.Recent(), 3)
	require.Equal(t, "eve", s.Recent()[2].User)
	require.Contains(t, buf.String(), `detail="17 codes"`)
	require.EqualValues(t, 100, s.Counts()["other"])
	require.Contains(t, string(slo.Rules(m)), `alert: "RefreshTokenReused"`)
	var none *Stream
	none.Report(t.Context(), LoginFailed, "ada")
}

// The kinds are the strings that packages session and token report.
func TestKindsAreThoseOfSession(t *testing.T) {
	for ours, theirs := range map[string]string{LoginFailed: session.EventLoginFailed,
		BadCookie: session.EventBadCookie,
		BadRecord: session.EventBadRecord, SwappedRecord: session.EventSwappedRecord,
		CrossOrigin: session.EventCrossOrigin, CSRF: session.EventCSRF, BadSignature: token.EventBadSignature,
		RefreshReuse: token.EventRefreshReuse, RevokedToken: token.EventRevokedToken} {
		require.Equal(t, theirs, ours)
	}
	for _, kind := range []string{session.EventLogin, session.EventLogout, session.EventRevoked,
		session.EventUnknownSession} {
		require.True(t, ordinary[kind], kind)
	}
}

func TestOptions(t *testing.T) {
	m := newMetrics(t)
	_, err := New(m, Options{Keep: -1})
	require.ErrorContains(t, err, "Options.Keep")
	_, err = New(m, Options{Kinds: []string{""}})
	require.ErrorContains(t, err, "Options.Kinds")
	_, err = New(m, Options{})
	require.NoError(t, err)
	_, err = New(m, Options{})
	require.ErrorContains(t, err, "already", "a second stream")
}
