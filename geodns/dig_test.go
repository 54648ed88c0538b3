package geodns

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
)

// What BIND's client makes of our answers.
func TestDig(t *testing.T) {
	dig := testserver.Command(t, "dig", "apt install bind9-dnsutils")
	r := router(t, RouterOptions{Locator: table(t)})
	s := server(t, ServerOptions{}, testZone(t, r))
	for query, want := range map[string][]string{
		"www.example.test A":                          {"status: NOERROR", "flags: qr aa", "192.0.2.80"},
		"WwW.eXample.test A +noedns":                  {"WwW.eXample.test.\t300\tIN\tA\t192.0.2.80"},
		"www.example.test A +cookie=0123456789abcdef": {"COOKIE: 0123456789abcdef01000000", "(good)"},
		"geo.example.test A +subnet=10.2.0.0/16":      {"CLIENT-SUBNET: 10.2.0.0/16/16", "198.51.100.1"},
		"geo.example.test AAAA +subnet=10.1.0.0/16":   {"2001:db8:a::1"},
		"geo.example.test A +subnet=0/0":              {"CLIENT-SUBNET: 0.0.0.0/0/0"},
		"www.example.test A +edns=1 +noednsneg":       {"status: BADVERS"},
		"www.example.test ANY +notcp":                 {"RFC8482"},
		"big.example.test TXT +ignore":                {"flags: qr aa tc", "ANSWER: 0"},
		"big.example.test TXT":                        {"ANSWER: 21", "(TCP)"},
		"none.example.test A":                         {"status: NXDOMAIN", "30\tIN\tSOA"},
		"example.test AXFR":                           {"Transfer failed"},
		"example.test IXFR=1":                         {"Transfer failed"},
		"www.elsewhere.test A":                        {"status: REFUSED"},
		"x.sub.example.test A": {"flags: qr rd;",
			"ns.sub.example.test.\t3600\tIN\tA\t192.0.2.99"},
		"svc.example.test HTTPS":                              {`1 . alpn="h2"`},
		"www.example.test A +opcode=NOTIFY":                   {"status: NOTIMP"},
		"www.example.test A +opcode=UPDATE":                   {"status: NOTIMP"},
		"www.example.test A +ednsopt=12:00000000 +tcp":        {"192.0.2.80"},
		"www.example.test A +ednsflags=0x2000":                {"status: NOERROR"},
		"www.example.test A +bufsize=100":                     {"status: NOERROR", "udp: 1232"},
		"www.example.test A +header-only":                     {"status: FORMERR"},
		"version.bind CH TXT":                                 {"status: REFUSED"},
		"www.example.test A +keepopen +tcp +norecurse +zflag": {"status: NOERROR"},
	} {
		args := append([]string{"@127.0.0.1", "-p", fmt.Sprint(s.Addr().Port()), "+tries=3", "+time=5"},
			strings.Fields(query)...)
		out, err := exec.Command(dig, args...).CombinedOutput()
		require.NoError(t, err, "%s\n%s", query, out)
		for _, w := range want {
			require.Contains(t, string(out), w, query)
		}
	}
}
