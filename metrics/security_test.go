package metrics

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSecurityEvents(t *testing.T) {
	var buf bytes.Buffer
	m := New(Options{NoHost: true, NoRuntime: true, Namespace: "shop"})
	s := m.Security(SecurityOptions{Kinds: []string{"coupon_guessing"}, Keep: 3,
		Log: slog.New(slog.NewTextHandler(&buf, nil))})
	out := scrape(t, m)
	require.Contains(t, out, `shop_security_events_total{kind="failed_login"} 0`, "a rate needs a start")
	s.Report(t.Context(), FailedLogin, "ada")
	s.Report(t.Context(), "bad-cookie", "") // as package session says it
	s.Report(t.Context(), "login", "ada")   // which is nothing to worry about
	s.ReportDetail(t.Context(), "coupon_guessing", "eve", "17 codes")
	for range 100 {
		s.Report(t.Context(), "made\nup by somebody", "eve")
	}
	out = scrape(t, m)
	for _, line := range []string{`{kind="failed_login"} 1`, `{kind="bad_signature"} 1`, `{kind="coupon_guessing"} 1`,
		`{kind="other"} 100`} {
		require.Contains(t, out, "shop_security_events_total"+line)
	}
	require.Len(t, s.Recent(), 3)
	require.Equal(t, "eve", s.Recent()[2].User)
	require.Contains(t, buf.String(), `detail="17 codes"`)
	require.EqualValues(t, 100, s.Counts()["other"])
	require.Contains(t, string(m.Rules()), `alert: "RefreshTokenReused"`)
	var none *Security
	none.Report(t.Context(), FailedLogin, "ada")
}

func grafanaExprs(t *testing.T, b []byte) (exprs []string) {
	var d struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &d))
	at := map[[2]int]string{}
	for i, p := range d.Panels {
		require.Equal(t, i+1, p.ID)
		require.Empty(t, at[[2]int{p.GridPos.X, p.GridPos.Y}], "%s lies on another panel", p.Title)
		at[[2]int{p.GridPos.X, p.GridPos.Y}] = p.Title
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24)
		for _, x := range p.Targets {
			exprs = append(exprs, x.Expr)
		}
	}
	return exprs
}
