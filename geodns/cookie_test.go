package geodns

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// The example of RFC 9018, appendix A.1 and A.2.
func TestCookieOfRFC9018(t *testing.T) {
	secret, _ := hex.DecodeString("e5e973e5a6b2a43f48e7dc849e37bfcf")
	client, _ := hex.DecodeString("2464c4abcf10c957")
	var got [16]byte
	newCookieJar(secret).bake(&got, [8]byte(client), ip("198.51.100.100"), 1559731985)
	require.Equal(t, "010000005cf79f111f8130c3eee29480", hex.EncodeToString(got[:]))
}

func TestCookiesEscapeTheRateLimit(t *testing.T) {
	secret := make([]byte, 16)
	s := server(t, ServerOptions{RateLimit: 1, Sockets: 1, Cookies: secret}, testZone(t, nil))
	other := server(t, ServerOptions{RateLimit: 1, Sockets: 1, Cookies: secret}, testZone(t, nil))
	with := func(c string) func(*dns.Msg) {
		return func(m *dns.Msg) {
			edns(m)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: c})
		}
	}
	shown := func(m *dns.Msg) string {
		for _, o := range m.IsEdns0().Option {
			if c, ok := o.(*dns.EDNS0_COOKIE); ok {
				return c.Cookie
			}
		}
		return ""
	}
	res := ask(t, s, "udp", "www.example.test.", dns.TypeA, with("0102030405060708"))
	cookie := shown(res)
	require.Len(t, cookie, 48)
	require.Equal(t, "0102030405060708", cookie[:16])
	for range 20 {
		for _, x := range []*Server{s, other} { // one secret, one cookie
			res = ask(t, x, "udp", "www.example.test.", dns.TypeA, with(cookie))
			require.False(t, res.Truncated)
			require.Len(t, res.Answer, 1)
		}
	}
	require.Equal(t, dns.RcodeFormatError, ask(t, server(t, ServerOptions{}, testZone(t, nil)), "udp",
		"www.example.test.", dns.TypeA, with("010203")).Rcode)
	forged := cookie[:40] + "00000000"
	truncated := false
	for range 6 { // slips or is dropped
		m := new(dns.Msg)
		m.SetQuestion("www.example.test.", dns.TypeA)
		with(forged)(m)
		c := dns.Client{Timeout: 100 * time.Millisecond}
		if res, _, err := c.Exchange(m, s.Addr().String()); err == nil {
			truncated = truncated || res.Truncated
		}
	}
	require.True(t, truncated)
	_, err := Listen("127.0.0.1:0", nil, ServerOptions{Cookies: []byte("short")})
	require.ErrorContains(t, err, "Cookies")
}
