package trace

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTraceparent(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	trace, parent, sampled, ok := Parse(good)
	require.True(t, ok)
	require.True(t, sampled)
	require.Equal(t, "00f067aa0ba902b7", parent)
	out := (&IDs{Trace: trace, Sampled: sampled}).Traceparent()
	again, span, sampled, ok := Parse(out)
	require.True(t, ok && sampled)
	require.Equal(t, trace, again)
	require.NotEqual(t, parent, span)
	_, _, _, ok = Parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later")
	require.True(t, ok, "a later version may have more")
	for _, bad := range []string{"", "00", good + "-x", strings.ToUpper(good),
		strings.Replace(good, "4bf92f3577b34da6a3ce929d0e0e4736", strings.Repeat("0", 32), 1),
		strings.Replace(good, "00f067aa0ba902b7", strings.Repeat("0", 16), 1), "ff" + good[2:]} {
		_, _, _, ok := Parse(bad)
		require.False(t, ok, bad)
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, s string) {
		if trace, parent, _, ok := Parse(s); ok && (len(trace) != 32 || len(parent) != 16) {
			t.Fatal(trace, parent)
		}
	})
}

func TestTraceThroughAQueue(t *testing.T) {
	headers := map[string]string{}
	Inject(t.Context(), func(k, v string) { headers[k] = v })
	require.Empty(t, headers)
	ids := &IDs{Request: "r-1", Trace: "4bf92f3577b34da6a3ce929d0e0e4736", Sampled: true}
	Inject(With(t.Context(), ids), func(k, v string) { headers[k] = v })
	b, err := json.Marshal(headers)
	require.NoError(t, err)
	var there map[string]string
	require.NoError(t, json.Unmarshal(b, &there))
	got := From(Extract(t.Context(), func(k string) string { return there[k] }))
	require.Equal(t, "r-1", got.Request)
	require.Equal(t, ids.Trace, got.Trace)
	require.True(t, got.Sampled)
	fresh := From(Extract(t.Context(), func(string) string { return "\n" }))
	require.Len(t, fresh.Trace, 32)
	require.NotContains(t, fresh.Request, "\n")
}
