package clientaddr

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOf(t *testing.T) {
	nets := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		peer, xff, want string
		trust           []netip.Prefix
	}{
		{"10.0.0.1:5", "1.2.3.4", "10.0.0.1", nil},
		{"10.0.0.1:5", "1.2.3.4", "1.2.3.4", nets},
		{"10.0.0.1:5", "6.6.6.6, 1.2.3.4, 10.0.0.9", "1.2.3.4", nets},
		{"10.0.0.1:5", "6.6.6.6, junk, 10.0.0.9", "10.0.0.9", nets},
		{"9.9.9.9:5", "1.2.3.4", "9.9.9.9", nets},
		{"[2001:db8::1]:5", "", "2001:db8::1", nets},
		{"[::ffff:10.0.0.1]:5", "1.2.3.4", "1.2.3.4", nets},
		{"@", "1.2.3.4", "invalid IP", nets},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{}}
		if c.xff != "" {
			r.Header.Set("X-Forwarded-For", c.xff)
		}
		require.Equal(t, c.want, Of(r, c.trust).String(), c)
	}
}
