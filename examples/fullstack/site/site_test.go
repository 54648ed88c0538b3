package site

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestChapters(t *testing.T) {
	all, err := chapters()
	require.NoError(t, err)
	require.Len(t, all, 11)
	for i, c := range all {
		require.Equal(t, i+1, c.Number)
		require.NotEmpty(t, c.Title)
		require.Contains(t, string(c.Body), "<h2", c.Slug)
		require.NotContains(t, string(c.Body), "raw HTML omitted", c.Slug)
	}
	require.Nil(t, all[0].Previous)
	require.Equal(t, all[5], all[4].Next)
}

func TestHeadersOfChaptersAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		"no header":                                     "header between lines",
		"---\ntitle: a\nshort: b\n---\nbody":            "lacks",
		"---\ntitle: a\nshort: b\nstnad: c\n---\nbody":  `line 3: unknown field "stnad"`,
		"---\ntitle: a\nshort: b\nstand: c\n--\n\nbody": "header between lines",
	} {
		_, _, err := parseHeader(text)
		require.ErrorContains(t, err, want)
	}
}

func TestArtIsSmallAndAlwaysTheSame(t *testing.T) {
	seen := map[string]bool{}
	for n := 1; n <= 11; n++ {
		svg := art(n)
		require.Equal(t, svg, art(n))
		require.Less(t, len(svg), 16<<10)
		require.False(t, seen[svg])
		seen[svg] = true
	}
}

func TestSearchLooksForAllWords(t *testing.T) {
	all, err := chapters()
	require.NoError(t, err)
	s := &Site{chapters: all}
	for query, want := range map[string]int{"": 0, "cache": 1, "STAMPEDE cache": 1, "cache elephant": 0, "server": 3} {
		if got := len(s.find(query)); query == "server" {
			require.GreaterOrEqual(t, got, want)
		} else {
			require.Equal(t, want, got, query)
		}
	}
}

// A form never leads to another host.
func TestNextStaysOnThisSite(t *testing.T) {
	for next_, want := range map[string]string{"/read/cache": "/read/cache", "": "/", "https://evil.example/": "/",
		"//evil.example/x": "/", `/\evil.example`: "/", "javascript:alert(1)": "/", "read": "/", "/a?b=c": "/a",
		"/%2f%2fevil.example": "/"} {
		r := httptest.NewRequest("GET", "/login", nil)
		r.Form = map[string][]string{"next": {next_}}
		require.Equal(t, want, next(r), next_)
	}
}

func TestNumberAndAgo(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234",
		-123: "-123"} {
		require.Equal(t, want, number(n))
	}
	for d, want := range map[time.Duration]string{0: "just now", time.Minute: "1 minute ago",
		90 * time.Minute: "1 hour ago",
		49 * time.Hour:   "2 days ago"} {
		require.Equal(t, want, ago(time.Now().Add(-d)))
	}
}

func TestKeys(t *testing.T) {
	r := httptest.NewRequest("POST", "/", strings.NewReader(""))
	a, err := keyOr(r, "like", "/read/cache", "ada")
	require.NoError(t, err)
	b, err := keyOr(r, "like", "/read/cach", "eada")
	require.NoError(t, err)
	require.NotEqual(t, a, b, "parts are kept apart")
	r.Header.Set("Idempotency-Key", "chosen")
	c, err := keyOr(r, "like", "/read/cache", "ada")
	require.NoError(t, err)
	require.Equal(t, "chosen", c)
	r.Header.Set("Idempotency-Key", "not/allowed")
	_, err = keyOr(r, "like")
	var se statusError
	require.ErrorAs(t, err, &se)
	require.Equal(t, http.StatusBadRequest, se.status)
}
