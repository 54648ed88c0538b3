package http1

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFieldOf(t *testing.T) {
	for f, r := range rules {
		if f := Field(f); f != Other && f != XForwardedOther {
			for _, name := range []string{r.name, strings.ToUpper(r.name), http.CanonicalHeaderKey(r.name)} {
				require.Equal(t, f, FieldOf(name), name)
				require.Equal(t, f, FieldOf([]byte(name)), name)
			}
			require.NotEqual(t, f, FieldOf(r.name[:len(r.name)-1]), r.name)
		}
	}
	for name, want := range map[string]Field{"": Other, "x-forwarded-": Other, "X-Forwarded-Port": XForwardedOther,
		"x-forwarded-by": XForwardedOther, "X-Forwarded": Other, "X-A": Other, "Authorization": Other,
		"x-forwarded-for-more-than-the-table-is-long": XForwardedOther} {
		require.Equal(t, want, FieldOf(name), name)
	}
}

// The two lists that the rules replaced, for the handler's requests and the transport's answers.
func TestRules(t *testing.T) {
	for _, name := range []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
		"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Expect", "Host",
		"Http2-Settings", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		require.False(t, ForwardsRequest(name, true), name)
		require.False(t, ForwardsRequest(name, false), name)
	}
	for _, name := range []string{"Forwarded", "X-Real-Ip", "X-Forwarded-Port"} {
		require.True(t, ForwardsRequest(name, true), name)
		require.False(t, ForwardsRequest(name, false), name)
	}
	for _, name := range []string{"Accept", "Cookie", "Idempotency-Key", "Date"} {
		require.True(t, ForwardsRequest(name, false), name)
	}
	for _, name := range []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Te",
		"Transfer-Encoding", "Upgrade"} {
		require.False(t, ForwardsResponse(name), name)
	}
	for _, name := range []string{"Content-Length", "Content-Type", "Date", "X-Forwarded-For"} {
		require.True(t, ForwardsResponse(name), name)
	}
}
