package xray

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func get(h http.Handler) http.Header {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w.Result().Header
}

// A miss shows the whole way, a hit only the edge: the tiers behind it were not asked.
func TestHitTakesAwayWhatIsBehindIt(t *testing.T) {
	status := "e1; fwd=uri-miss; stored"
	way := Tier(Edge, "e1", Outcome, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Status", status)
		Tier(Balancer, "lb1", nil, WebTier("web1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			Asked(r.Context(), "s1-eu-west", "replica")
			Asked(r.Context(), "s1-eu-west", "replica")
			_, _ = w.Write([]byte("page"))
		}))).ServeHTTP(w, r)
	}))
	all := strings.Join(get(way)[header], " ")
	require.Regexp(t, `^database;desc="s1-eu-west \(replica\)" web;dur=[0-9.]+;desc="web1" balancer;.* edge;.*"e1: miss"$`, all)
	status = "e1; hit; ttl=3"
	require.Regexp(t, `^edge;dur=[0-9.]+;desc="e1: hit"$`, strings.Join(get(way)[header], " "))
}

func TestWithoutCollectNothingIsNoted(t *testing.T) {
	Asked(t.Context(), "s1", "primary")
	require.Empty(t, Databases(t.Context()))
}
