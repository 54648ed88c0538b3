package geodns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

func TestSeveralCentersInOneAnswer(t *testing.T) {
	r := router(t, RouterOptions{Locator: table(t)})
	s := server(t, ServerOptions{}, testZone(t, r))
	names := func(client string, n int) (out []string) {
		for _, d := range r.RouteAll(ip(client), n) {
			out = append(out, d.DC)
		}
		return out
	}
	require.Equal(t, []string{"eu", "us", "ap"}, names("10.2.0.1", 3))
	require.Equal(t, []string{"eu"}, names("10.2.0.1", 1))
	require.Empty(t, names("10.2.0.1", 0))
	res := ask(t, s, "udp", "few.example.test.", dns.TypeA, subnet("10.2.0.0/16"))
	require.Equal(t, "198.51.100.1", res.Answer[0].(*dns.A).A.String(), "the nearest center's addresses come first")
	require.Equal(t, "A 192.0.2.1; A 192.0.2.2; A 198.51.100.1; A 203.0.113.1", data(res.Answer))
	require.Equal(t, 16, scope(res))
	require.NoError(t, r.Drain("us"))
	require.Equal(t, []string{"eu", "ap"}, names("10.2.0.1", 3))
	require.Equal(t, "A 198.51.100.1; A 203.0.113.1",
		data(ask(t, s, "udp", "few.example.test.", dns.TypeA, subnet("10.2.0.0/16")).Answer))

	w := router(t, RouterOptions{Policy: Weighted()})
	first := map[string]int{}
	for i := range 300 {
		ds := w.RouteAll(netip.AddrFrom4([4]byte{10, byte(i), 1, 1}), 8)
		require.Len(t, ds, 3, "each once")
		require.NotEqual(t, ds[0].DC, ds[1].DC)
		require.NotEqual(t, ds[1].DC, ds[2].DC)
		require.Equal(t, w.Route(netip.AddrFrom4([4]byte{10, byte(i), 1, 1})).DC, ds[0].DC)
		require.Equal(t, 24, ds[0].Scope.Bits())
		first[ds[0].DC]++
	}
	require.Len(t, first, 3)
	require.ErrorContains(t, testZone(t, nil).Geo("x", r, GeoOptions{Centers: 9}), "Centers")
}

func TestAliases(t *testing.T) {
	r := router(t, RouterOptions{Locator: table(t)})
	z, err := NewZone("alias.test.", ZoneOptions{NS: []string{"ns1.alias.test."}})
	require.NoError(t, err)
	require.NoError(t, z.Add("@ IN MX 10 mail", "www 60 IN A 192.0.2.1", "www IN TXT hello", "www IN AAAA 2001:db8::1",
		"c IN CNAME www"))
	require.NoError(t, z.Alias("@", "c"))
	require.NoError(t, z.Alias("geo", "geo.example.test."))
	require.NoError(t, z.Alias("gone", "nothing"))
	require.NoError(t, z.Alias("round", "round"))
	s := server(t, ServerOptions{}, z, testZone(t, r))
	res := ask(t, s, "udp", "alias.test.", dns.TypeA)
	require.Equal(t, "A 192.0.2.1", data(res.Answer))
	require.Equal(t, "alias.test.", res.Answer[0].Header().Name)
	require.Equal(t, "AAAA 2001:db8::1", data(ask(t, s, "udp", "alias.test.", dns.TypeAAAA).Answer))
	require.Equal(t, "MX 10 mail.alias.test.", data(ask(t, s, "udp", "alias.test.", dns.TypeMX).Answer))
	require.Empty(t, ask(t, s, "udp", "alias.test.", dns.TypeTXT).Answer)
	res = ask(t, s, "udp", "geo.alias.test.", dns.TypeA, subnet("10.2.0.0/16"))
	require.Equal(t, "A 198.51.100.1", data(res.Answer))
	require.Equal(t, 16, scope(res))
	for _, name := range []string{"gone.alias.test.", "round.alias.test."} {
		res = ask(t, s, "udp", name, dns.TypeA)
		require.Equal(t, dns.RcodeSuccess, res.Rcode)
		require.Len(t, res.Ns, 1)
	}
	require.NoError(t, z.Alias("away", "www.elsewhere.test."))
	require.ErrorContains(t, s.Update([]*Zone{z, testZone(t, r)}), "away.alias.test.")
	require.ErrorContains(t, z.Alias("x.other.test.", "www"), "not in zone")
}

// DS belongs to the parent; all else below a cut to the child.
func TestDelegationAsksTheParentForDS(t *testing.T) {
	s := server(t, ServerOptions{}, testZone(t, nil))
	res := ask(t, s, "udp", "sub.example.test.", dns.TypeDS)
	require.True(t, res.Authoritative)
	require.Equal(t, "SOA", dns.TypeToString[res.Ns[0].Header().Rrtype])
	require.False(t, ask(t, s, "udp", "x.sub.example.test.", dns.TypeDS).Authoritative)
	loop := ask(t, s, "udp", "loop.example.test.", dns.TypeA)
	require.Len(t, loop.Answer, 1, "a loop is told once")
}

func TestVotesNeedAQuorumAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := NewRouter(RouterOptions{DCs: dcs(), Health: HealthOptions{Quorum: 2, VoteTTL: time.Minute}})
		require.NoError(t, err)
		defer r.Close()
		require.NoError(t, r.Vote("us", "a", false))
		require.Equal(t, "us", r.Route(ip("10.1.0.1")).DC, "one is no quorum")
		time.Sleep(30 * time.Second)
		require.NoError(t, r.Vote("us", "b", false))
		require.Equal(t, "eu", r.Route(ip("10.1.0.1")).DC)
		require.Equal(t, RouterStats{Centers: 3, Up: 2, Changes: 1}, r.Stats())
		time.Sleep(31 * time.Second)
		require.Equal(t, "us", r.Route(ip("10.1.0.1")).DC, "the first voter has not been heard of for a minute")
		for i := range 1001 {
			err = r.Vote("eu", strconv.Itoa(i), true)
		}
		require.ErrorIs(t, err, ErrVoters)
	})
}

// While a center ramps, the clients that it does not take back yet stay spread over the others.
func TestRampAndSpillGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ds := dcs()
		ds[2].Capacity = 3
		r, err := NewRouter(RouterOptions{DCs: ds, Spill: true, Health: HealthOptions{Ramp: 100 * time.Second}})
		require.NoError(t, err)
		defer r.Close()
		require.NoError(t, r.Drain("us"))
		require.NoError(t, r.Undrain("us"))
		time.Sleep(50 * time.Second)
		got := map[string]float64{}
		for i := range 65536 {
			got[r.Route(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 1})).DC] += 1.0 / 65536
		}
		require.InDelta(t, 0.5, got["us"], 0.06)
		require.InDelta(t, 3, got["ap"]/got["eu"], 0.3, "by capacity")
		require.NoError(t, r.Drain("ap"))
		require.NoError(t, r.Drain("eu"))
		for i := range 1000 {
			require.Equal(t, "us", r.Route(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 1})).DC,
				"nobody else is left: a ramp turns nobody away")
		}
	})
}

func TestChecks(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/moved":
			http.Redirect(w, q, "/bad", http.StatusFound)
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		default:
			fmt.Fprint(w, "host ", q.Host, " ", q.Header.Get("X-Probe"))
		}
	}))
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	run := func(rawURL string, o HTTPCheckOptions) error {
		c, err := CheckHTTP(rawURL, o)
		require.NoError(t, err)
		return c(ctx)
	}
	require.NoError(t, run(srv.URL, HTTPCheckOptions{Contain: "probe me",
		Header: http.Header{"X-Probe": {"probe me"}}}))
	require.NoError(t, run(srv.URL+"/moved", HTTPCheckOptions{}))
	require.ErrorContains(t, run(srv.URL+"/moved", HTTPCheckOptions{Status: 200}), "302")
	require.ErrorContains(t, run(srv.URL+"/bad", HTTPCheckOptions{}), "500")
	require.ErrorContains(t, run(srv.URL, HTTPCheckOptions{Contain: "absent"}), "absent")
	_, err := CheckHTTP("ftp://x", HTTPCheckOptions{})
	require.ErrorContains(t, err, "ftp://x")
	_, port, _ := net.SplitHostPort(addr)
	byAddr, err := CheckHTTPAddr("http://www.example.test:"+port+"/", HTTPCheckOptions{Contain: "www.example.test"})
	require.NoError(t, err)
	require.NoError(t, byAddr(ctx, ip("127.0.0.1")))
	n, _ := strconv.Atoi(port)
	require.NoError(t, CheckTCP(addr)(ctx))
	require.NoError(t, CheckTCPAddr(uint16(n))(ctx, ip("127.0.0.1")))
	srv.Close()
	require.Error(t, CheckTCP(addr)(ctx))
	require.Error(t, byAddr(ctx, ip("127.0.0.1")))

	lag, broken := time.Second, error(nil)
	behind := CaughtUp(func(context.Context) (time.Duration, error) { return lag, broken }, 2*time.Second)
	require.NoError(t, behind(ctx))
	lag = 3 * time.Second
	require.ErrorIs(t, behind(ctx), ErrBehind)
	lag, broken = 0, errors.New("replica is gone")
	require.ErrorIs(t, behind(ctx), ErrBehind)
	require.ErrorIs(t, behind(ctx), broken)

	good, bad, wild := func(context.Context) error {
		return nil
	}, func(context.Context) error { return broken }, func(context.Context) error { panic("boom") }
	require.NoError(t, Quorum(2, good, bad, good)(ctx))
	require.ErrorIs(t, Quorum(2, good, bad, bad)(ctx), broken)
	require.ErrorContains(t, AllOf(good, wild)(ctx), "boom")
	require.NoError(t, AllOf()(ctx))
}

// A center whose data lags takes no traffic until it has caught up.
func TestACenterThatLagsTakesNoTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sw switchboard
		lag := func(context.Context) (time.Duration, error) {
			if sw.check("replica")(nil) != nil {
				return time.Hour, nil
			}
			return 10 * time.Millisecond, nil
		}
		ds := dcs()
		ds[0].Check = AllOf(sw.check("us"), CaughtUp(lag, time.Second))
		r, err := NewRouter(RouterOptions{DCs: ds, Locator: table(t)})
		require.NoError(t, err)
		defer r.Close()
		time.Sleep(5 * time.Second)
		require.Equal(t, "us", r.Route(ip("10.1.0.1")).DC)
		sw.set("replica")
		time.Sleep(5 * time.Second)
		require.Equal(t, "eu", r.Route(ip("10.1.0.1")).DC)
		require.Contains(t, r.Snapshot()[0].LastErr, "behind by 1h0m0s")
		sw.set()
		time.Sleep(5 * time.Second)
		require.Equal(t, "us", r.Route(ip("10.1.0.1")).DC)
	})
}

// Real listeners: the center's web server is killed, and the name server's answers follow.
func TestFailoverWhenAListenerIsKilled(t *testing.T) {
	port := 0
	var centers []*httptest.Server
	var ds []DC
	for i, host := range []string{"127.0.0.41", "127.0.0.42"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		require.NoError(t, err)
		port = l.Addr().(*net.TCPAddr).Port
		srv := httptest.NewUnstartedServer(http.NotFoundHandler())
		srv.Listener.Close()
		srv.Listener = l
		srv.Start()
		defer srv.Close()
		centers = append(centers, srv)
		ds = append(ds, DC{Name: strconv.Itoa(i), Addrs: []netip.Addr{ip(host)}, CheckAddr: CheckTCPAddr(uint16(port))})
	}
	r := router(t, RouterOptions{DCs: ds, Health: HealthOptions{Interval: 50 * time.Millisecond}})
	s := server(t, ServerOptions{}, testZone(t, r))
	where := func() string { return data(ask(t, s, "udp", "geo.example.test.", dns.TypeA).Answer) }
	require.Equal(t, "A 127.0.0.41", where())
	centers[0].Close()
	require.Eventually(t, func() bool { return where() == "A 127.0.0.42" }, 20*time.Second, 5*time.Millisecond)
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.41", strconv.Itoa(port)))
	require.NoError(t, err)
	defer l.Close()
	require.Eventually(t, func() bool { return where() == "A 127.0.0.41" }, 20*time.Second, 5*time.Millisecond)
}
