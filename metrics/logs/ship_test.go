package logs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/metrics/trace"
)

const shipToken = "0123456789abcdef"

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// collector is a Store behind a server that can fail in the ways networks do.
func collector(t *testing.T, fail func(n int64) (refuse, loseAnswer bool)) (*Store, string) {
	store := NewStore(StoreOptions{Token: shipToken})
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse, lose := fail(n.Add(1))
		if refuse {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		if lose { // it is kept, but the shipper can't know
			store.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return store, srv.URL
}

func TestShippedOnceEach(t *testing.T) {
	if testing.Short() {
		t.Skip("waits out the back-off of three shippers")
	}
	t.Parallel()
	store, url := collector(t, func(n int64) (bool, bool) { return n%3 == 1, n%3 == 2 })
	const servers, each = 3, 500
	for i := range servers {
		s, err := NewShipper(ShipperOptions{URL: url, Token: shipToken, Logger: quiet, Batch: 100,
			Interval: 10 * time.Millisecond,
			Client:   &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
		require.NoError(t, err)
		kept := slog.New(NewHandler(slog.NewTextHandler(io.Discard, nil),
			HandlerOptions{Server: fmt.Sprintf("web-%d", i), Ship: s}))
		for k := range each {
			ctx := trace.With(t.Context(), &trace.IDs{Request: fmt.Sprintf("r-%d-%d", i, k)})
			if k%100 == 0 {
				kept.ErrorContext(ctx, fmt.Sprintf("order %d failed", k), "err", "no stock")
			} else {
				kept.InfoContext(ctx, "order", "n", k)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		require.NoError(t, s.Shutdown(ctx))
		cancel()
		st := s.Stats()
		require.EqualValues(t, each, st.Shipped)
		require.Zero(t, st.Dropped+uint64(st.Waiting))
		require.NotZero(t, st.Failed)
		require.NotEmpty(t, st.LastError)
		s.Add(Record{})
		require.EqualValues(t, 1, s.Stats().Dropped, "after Close")
	}
	seen := map[string]int{}
	for _, r := range store.Recent() {
		seen[r.Attrs["request_id"]]++
	}
	require.Len(t, seen, servers*each)
	for id, n := range seen {
		require.Equal(t, 1, n, id)
	}
	require.Equal(t, []string{"web-0", "web-1", "web-2"}, store.Servers())
	errs := store.Errors()
	require.Len(t, errs, 1, "messages that differ in numbers only are one group")
	require.Equal(t, servers*each/100, errs[0].Count)
	require.Equal(t, "no stock", errs[0].Example)

	// What the dashboard asks.
	require.Len(t, store.Search(Query{ID: "r-1-7"}), 1)
	require.Len(t, store.Search(Query{Level: "WARN", Limit: 1000}), servers*each/100)
	require.Len(t, store.Search(Query{Server: "web-2", Level: "error"}), each/100)
	require.Len(t, store.Search(Query{Text: "ORDER 100"}), servers)
	require.Len(t, store.Search(Query{Text: "n=499"}), servers)
	require.Len(t, store.Search(Query{}), 100)
	now := time.Now()
	require.Empty(t, store.Search(Query{From: now}))
	all := store.Search(Query{To: now, Limit: 5000})
	require.Len(t, all, 1000)
	require.False(t, all[0].At.Before(all[999].At), "youngest first")
}

func TestShipperGivesUpOnlyRecords(t *testing.T) {
	_, url := collector(t, func(int64) (bool, bool) { return true, false })
	s, err := NewShipper(ShipperOptions{URL: url, Token: shipToken, Logger: quiet, Buffer: 100, Batch: 10,
		Interval: time.Hour,
		Client:   &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	require.NoError(t, err)
	for i := range 1000 {
		s.Add(Record{Message: fmt.Sprint(i)}) // never blocks
	}
	require.LessOrEqual(t, s.Stats().Waiting, 100)
	require.NotZero(t, s.Stats().Dropped)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	st := s.Stats()
	require.EqualValues(t, 1000, st.Dropped+uint64(st.Waiting), "nothing is unaccounted for")

	_, err = NewShipper(ShipperOptions{URL: "collector:9", Token: shipToken})
	require.ErrorContains(t, err, "ShipperOptions.URL")
	_, err = NewShipper(ShipperOptions{URL: "http://collector:9", Token: "short"})
	require.ErrorContains(t, err, "ShipperOptions.Token")
}

func TestLogStoreRefuses(t *testing.T) {
	s := NewStore(StoreOptions{Token: shipToken, MaxBody: 200, Records: 2})
	post := func(token, body string) (int, string) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Authorization", token)
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r)
		return rec.Code, rec.Body.String()
	}
	code, _ := post("Bearer 0123456789abcdeX", "")
	require.Equal(t, 401, code)
	code, _ = post(shipToken, "")
	require.Equal(t, 401, code)
	code, body := post("Bearer "+shipToken, `{"message":"a"}`+"\n"+`{"message":`)
	require.Equal(t, 400, code)
	require.Contains(t, body, "line 2")
	require.Empty(t, s.Recent(), "all or nothing")
	code, _ = post("Bearer "+shipToken, `{"message":"`+strings.Repeat("a", 300)+`"}`)
	require.Equal(t, 413, code)
	code, _ = post("Bearer "+shipToken, `{"message":"a"}`+"\n"+`{"message":"b"}`+"\n"+`{"message":"c"}`)
	require.Equal(t, 200, code)
	require.Len(t, s.Recent(), 2)
	require.Equal(t, "b", s.Recent()[0].Message)
	rec := httptest.NewRecorder()
	NewStore(StoreOptions{}).ServeHTTP(rec, httptest.NewRequest("POST", "/", nil))
	require.Equal(t, 401, rec.Code, "without a token nobody gets in")
	rec = httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 405, rec.Code)
}

func TestWithoutNumbers(t *testing.T) {
	for in, want := range map[string]string{
		"disk full": "disk full", "user 7 not found": "user # not found",
		"order 4bf92f3577b34da6 of 12": "order # of #",
		"10.0.0.7:5432 refused":        "#.#.#.#:# refused", "face it": "face it", "": "",
	} {
		require.Equal(t, want, withoutNumbers(in))
	}
}

// Whatever clients send, the memory of records is bounded in bytes.
func TestRecordsAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 900<<10)
	s := NewStore(StoreOptions{Bytes: 256 << 10})
	for i := range 500 {
		s.Add(Record{At: time.Unix(int64(i), 0), Level: "ERROR", Message: long, Attrs: map[string]string{"path": long,
			"n": fmt.Sprint(i)}})
	}
	kept := s.Recent()
	require.Greater(t, len(kept), 5)
	var bytes int64
	for i := range kept {
		bytes += kept[i].size()
		require.Less(t, len(kept[i].Attrs["path"]), 5000)
		require.Contains(t, kept[i].Attrs["path"], "921600 bytes")
	}
	require.LessOrEqual(t, bytes, int64(256<<10))
	require.Equal(t, "499", kept[len(kept)-1].Attrs["n"])
	require.Less(t, len(s.Errors()[0].Message), 5000)

	many := Record{Attrs: map[string]string{}}
	for i := range 500 {
		many.Attrs[fmt.Sprintf("k%03d", i)] = "v"
	}
	many = many.bounded()
	require.Len(t, many.Attrs, maxAttrs+1)
	require.Equal(t, "436", many.Attrs["attributes_left_out"])

	// The buffer of a shipper, too.
	_, url := collector(t, func(int64) (bool, bool) { return true, false })
	ship, err := NewShipper(ShipperOptions{URL: url, Token: shipToken, Logger: quiet, Bytes: 100 << 10,
		Interval: time.Hour,
		Client:   &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	require.NoError(t, err)
	for range 1000 {
		ship.Add(Record{Message: long})
	}
	ship.mu.Lock()
	require.LessOrEqual(t, ship.bytes, int64(100<<10))
	ship.mu.Unlock()
	require.NotZero(t, ship.Stats().Dropped)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = ship.Shutdown(ctx)
}

// A burst of strange errors fills the groups; later errors have groups of their own again.
func TestErrorGroupsRecover(t *testing.T) {
	t.Parallel()
	s := NewStore(StoreOptions{Groups: 10})
	at := time.Unix(1000, 0)
	add := func(message string) { s.Add(Record{At: at, Level: "ERROR", Message: message}) }
	letters := func(i int) string { return string(rune('a'+i/26)) + string(rune('a'+i%26)) }
	for i := range 300 {
		add("strange " + letters(i))
	}
	require.Len(t, s.Errors(), 11)
	require.Equal(t, "other", s.Errors()[0].Message)
	at = at.Add(time.Hour)
	for range 3 {
		add("disk full")
	}
	groups := map[string]int{}
	for _, g := range s.Errors() {
		groups[g.Message] = g.Count
	}
	require.Equal(t, 3, groups["disk full"])
	require.LessOrEqual(t, len(groups), 11)
}
