package geodns

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestVerify(t *testing.T) {
	center := func(version, greeting string, broken bool) VerifyTarget {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("X-Version", version)
			switch {
			case q.Host != "www.example.test":
				http.Error(w, "wrong host", http.StatusMisdirectedRequest)
			case q.URL.Path == "/slow" && broken:
				<-q.Context().Done()
			case q.URL.Path == "/echo":
				var b bytes.Buffer
				b.ReadFrom(q.Body)
				fmt.Fprint(w, q.Method, q.Header.Get("X-A"), b.String())
			case q.URL.Path == "/time":
				fmt.Fprint(w, greeting, " at ", time.Now().UnixNano())
			default:
				fmt.Fprint(w, "fine")
			}
		}))
		t.Cleanup(srv.Close)
		return VerifyTarget{Name: version + greeting, URL: srv.URL + "/"}
	}
	stamp := regexp.MustCompile(`at \d+`)
	o := VerifyOptions{Host: "www.example.test", Timeout: 10 * time.Second,
		Normalize: func(_ VerifyRequest, b []byte) []byte {
			return stamp.ReplaceAll(b, nil)
		}}
	requests := []VerifyRequest{{Path: "/"}, {Path: "/time"},
		{Method: "PUT", Path: "/echo", Body: []byte("x"), Header: http.Header{"X-A": {"a"}}}}
	same, err := Verify(t.Context(), []VerifyTarget{center("1", "hi", false), center("1", "hi ", false)}, requests[:1],
		o)
	require.NoError(t, err)
	require.NoError(t, same.Err())
	require.Equal(t, map[string]string{"1hi": "1", "1hi ": "1"}, same.Versions)

	rep, err := Verify(t.Context(), []VerifyTarget{center("1", "hi", false), center("2", "ho", false)}, requests, o)
	require.NoError(t, err)
	require.ErrorIs(t, rep.Err(), ErrUnequal)
	require.Len(t, rep.Differences, 2)
	require.Equal(t, Difference{"", "version", map[string]string{"1hi": "1", "2ho": "2"}}, rep.Differences[0])
	require.Equal(t, "GET /time", rep.Differences[1].Request)
	require.Equal(t, "body", rep.Differences[1].What)

	o.Timeout = 200 * time.Millisecond
	rep, err = Verify(t.Context(), []VerifyTarget{center("1", "a", true), {Name: "dead", URL: "http://127.0.0.1:1"}},
		[]VerifyRequest{{Path: "/slow"}}, o)
	require.NoError(t, err)
	require.Len(t, rep.Differences, 1)
	require.Equal(t, "error", rep.Differences[0].What)
	require.Len(t, rep.Differences[0].Values, 2, "both failed")

	o.MaxBody = 3
	rep, err = Verify(t.Context(), []VerifyTarget{center("1", "a", false)}, requests[:1], o)
	require.NoError(t, err)
	require.Contains(t, rep.Differences[0].Values["1a"], "longer than 3 bytes")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Verify(ended, []VerifyTarget{center("1", "a", false)}, requests, o)
	require.ErrorIs(t, err, context.Canceled)
	for want, targets := range map[string][]VerifyTarget{"no targets": nil, "targets[0].URL": {{URL: "x"}},
		"twice": {{"a", "http://a"}, {"a", "http://b"}}} {
		_, err = Verify(t.Context(), targets, requests, o)
		require.ErrorContains(t, err, want)
	}
	_, err = Verify(t.Context(), []VerifyTarget{{"a", "http://a"}}, nil, o)
	require.ErrorContains(t, err, "requests")
}
