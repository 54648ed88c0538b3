package geodns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

const world = `cidr,continent,country,lat,lon
10.1.0.0/16,NA,US,38,-90
10.2.0.0/16,EU,DE,51,10
10.3.0.0/16,AS,JP,35,138
10.3.128.0/17,EU,FR,47,2
2001:db8:1::/48,NA,US,38,-90
2001:db8:2::/48,EU,DE,51,10
`

func table(t testing.TB) *Table {
	l, err := ReadCSV(strings.NewReader(world))
	require.NoError(t, err)
	return l
}

func dcs() []DC {
	return []DC{
		{Name: "us", Lat: 39, Lon: -77, Addrs: []netip.Addr{ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8:a::1")}},
		{Name: "eu", Lat: 53, Lon: -6, Addrs: []netip.Addr{ip("198.51.100.1")}},
		{Name: "ap", Lat: 1, Lon: 104, Addrs: []netip.Addr{ip("203.0.113.1")}},
	}
}

func router(t testing.TB, o RouterOptions) *Router {
	t.Helper()
	if o.DCs == nil {
		o.DCs = dcs()
	}
	r, err := NewRouter(o)
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func TestNearest(t *testing.T) {
	r := router(t, RouterOptions{Locator: table(t)})
	for addr, want := range map[string]string{
		"10.1.2.3": "us", "10.2.2.3": "eu", "10.3.2.3": "ap", "10.3.200.1": "eu", "2001:db8:2::1": "eu",
		"8.8.8.8":         "us",
		"::ffff:10.2.0.1": "eu",
	} {
		require.Equal(t, want, r.Route(ip(addr)).DC, addr)
	}
	require.Equal(t, "DE", r.Locate(ip("10.2.0.1")).Country)
	require.Equal(t, "us", r.Route(netip.Addr{}).DC)
	biased := dcs()
	biased[2].Bias = 20000
	require.NoError(t, r.Update(biased, nil, table(t)))
	require.Equal(t, "ap", r.Route(ip("10.2.2.3")).DC)
	require.InDelta(t, 343.5, Distance(51.5, -0.12, 48.86, 2.35), 3)
}

// Every address within the scope of a decision gets the same decision, and no wider prefix would do.
func TestScopeIsSoundAndMinimal(t *testing.T) {
	r := router(t, RouterOptions{Locator: table(t)})
	rapid.Check(t, func(t *rapid.T) {
		var a netip.Addr
		if rapid.Bool().Draw(t, "v6") {
			b := ip("2001:db8::").As16()
			b[5], b[6] = byte(rapid.IntRange(0, 3).Draw(t, "net")), rapid.Byte().Draw(t, "b6")
			a = netip.AddrFrom16(b)
		} else {
			a = netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 5).Draw(t, "b1")), rapid.Byte().Draw(t, "b2"),
				rapid.Byte().Draw(t, "b3")})
		}
		d := r.Route(a)
		if !d.Scope.Contains(a) {
			t.Fatalf("%v not in %v", a, d.Scope)
		}
		ends := func(p netip.Prefix) []netip.Addr {
			first := p.Masked().Addr()
			raw := first.AsSlice()
			for i := p.Bits(); i < len(raw)*8; i++ {
				raw[i/8] |= 0x80 >> (i % 8)
			}
			last, _ := netip.AddrFromSlice(raw)
			return []netip.Addr{first, last}
		}
		for _, x := range ends(d.Scope) {
			if got := r.Route(x).DC; got != d.DC {
				t.Fatalf("%v is in %v of %v but goes to %s, not %s", x, d.Scope, a, got, d.DC)
			}
		}
		if d.Scope.Bits() > 0 {
			wider := netip.PrefixFrom(a, d.Scope.Bits()-1)
			same := true
			for _, x := range []string{"10.0.0.0", "10.1.0.0", "10.2.0.0", "10.3.0.0", "10.3.128.0", "10.4.0.0",
				"0.0.0.0", "255.255.255.255",
				"2001:db8:0:ffff::", "2001:db8:1::", "2001:db8:2::", "2001:db8:3::", "::", "ffff::"} {
				if p := ip(x); wider.Contains(p) && r.Route(p).DC != d.DC {
					same = false
				}
			}
			for _, x := range ends(wider.Masked()) {
				same = same && r.Route(x).DC == d.DC
			}
			if same {
				t.Fatalf("%v: scope %v could be wider", a, d.Scope)
			}
		}
	})
}

// The builder agrees with a plain search for the smallest range that holds an address.
func TestBuilderAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type put struct {
			p  netip.Prefix
			at Location
		}
		var b Builder
		var puts []put
		for i := range rapid.IntRange(0, 12).Draw(t, "n") {
			a := netip.AddrFrom4([4]byte{rapid.SampledFrom([]byte{0, 10, 255}).Draw(t, "a"),
				rapid.SampledFrom([]byte{0, 1, 255}).Draw(t, "b"), 0, 0})
			p := netip.PrefixFrom(a, rapid.IntRange(0, 32).Draw(t, "bits")).Masked()
			at := Location{Country: fmt.Sprint("C", i%4)}
			puts = append(puts, put{p, at})
			require.NoError(t, b.AddPrefix(p, at))
		}
		tab, err := b.Build()
		require.NoError(t, err)
		for range 20 {
			a := netip.AddrFrom4([4]byte{rapid.SampledFrom([]byte{0, 1, 10, 11, 255}).Draw(t, "x"),
				rapid.SampledFrom([]byte{0, 1, 2, 255}).Draw(t, "y"), rapid.SampledFrom([]byte{0, 1, 255}).Draw(t, "z"),
				0})
			want, bits := Location{}, -1
			for _, p := range puts {
				if p.p.Contains(a) && p.p.Bits() >= bits {
					want, bits = p.at, p.p.Bits()
				}
			}
			if got, scope := tab.Locate(a); got != want || !scope.Contains(a) {
				t.Fatalf("%v: %v in %v, want %v", a, got, scope, want)
			}
		}
	})
}

func TestWeightedSharesAndStickiness(t *testing.T) {
	ds := dcs()
	ds[0].Weight, ds[1].Weight, ds[2].Weight = 90, 10, 0.000001
	r := router(t, RouterOptions{DCs: ds, Policy: Weighted()})
	const n = 100_000
	got := map[string]float64{}
	before := make([]string, n)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 7}) }
	for i := range n {
		d := r.Route(addr(i))
		got[d.DC]++
		before[i] = d.DC
		require.Equal(t, 24, d.Scope.Bits())
		require.Equal(t, d.DC, r.Route(d.Scope.Addr()).DC, "the whole prefix")
	}
	// chi-square with one degree of freedom, p = 0.001
	chi := math.Pow(got["us"]-0.9*n, 2)/(0.9*n) + math.Pow(got["eu"]-0.1*n, 2)/(0.1*n)
	require.Less(t, chi, 10.83, "%v", got)
	require.NoError(t, r.Drain("eu"))
	for i := range n {
		if now := r.Route(addr(i)).DC; before[i] == "us" && now != "us" {
			t.Fatal("a client of a healthy center moved")
		}
	}
}

func TestGeoMapChainFailover(t *testing.T) {
	r := router(t, RouterOptions{Locator: table(t), Policy: GeoMap(map[string]Policy{
		"FR": Failover("ap", "us"), "continent:EU": Chain(Failover("us"), Nearest()), "": Nearest(),
	})})
	require.Equal(t, "ap", r.Route(ip("10.3.200.1")).DC)
	require.Equal(t, "us", r.Route(ip("10.2.0.1")).DC)
	require.Equal(t, "ap", r.Route(ip("10.3.0.1")).DC)
	require.NoError(t, r.Drain("us"))
	d := r.Route(ip("10.2.0.1"))
	require.Equal(t, "eu", d.DC)
	require.Equal(t, ReasonFailover, d.Reason)
	require.ErrorIs(t, r.Drain("mars"), ErrUnknownDC)
}

func TestSpillSpreadsOverAllSurvivors(t *testing.T) {
	ds := dcs()
	ds[2].Capacity = 3
	r := router(t, RouterOptions{DCs: ds, Locator: table(t), Spill: true})
	require.NoError(t, r.Drain("us"))
	got := map[string]float64{}
	for i := range 20000 {
		got[r.Route(netip.AddrFrom4([4]byte{10, 1, byte(i >> 6), byte(i << 2)})).DC]++
	}
	for i := range 20000 {
		got[r.Route(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 1})).DC]++
	}
	require.InDelta(t, 0.25, got["eu"]/(got["eu"]+got["ap"]), 0.02)
	require.Equal(t, "eu", r.Route(ip("10.2.0.1")).DC, "clients of the others stay")
}

type switchboard struct {
	mu   sync.Mutex
	down map[string]bool
}

func (s *switchboard) set(down ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = map[string]bool{}
	for _, d := range down {
		s.down[d] = true
	}
}

func (s *switchboard) check(name string) func(context.Context) error {
	return func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.down[name] {
			return errors.New(name + " is down")
		}
		return nil
	}
}

func TestHealthTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sw switchboard
		ds := dcs()
		for i := range ds {
			ds[i].Check = sw.check(ds[i].Name)
			ds[i].CheckAddr = func(ctx context.Context, a netip.Addr) error { return sw.check(a.String())(ctx) }
		}
		var log []string
		r, err := NewRouter(RouterOptions{DCs: ds, Locator: table(t), OnChange: func(c Change) {
			log = append(log, fmt.Sprint(c.DC, " ", c.Addr, " ", c.Up))
		}})
		require.NoError(t, err)
		defer r.Close()
		us := ip("10.1.0.1")
		require.Equal(t, "us", r.Route(us).DC, "healthy until known")
		time.Sleep(10 * time.Second)

		sw.set("192.0.2.1")
		time.Sleep(3500 * time.Millisecond)
		require.Equal(t, []netip.Addr{ip("192.0.2.2"), ip("2001:db8:a::1")}, r.Route(us).Addrs,
			"an address that is down is left out")

		sw.set("us")
		start := time.Now()
		for r.Route(us).DC == "us" {
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(start)
		require.LessOrEqual(t, took, 3*1100*time.Millisecond+time.Second, "interval x fall + timeout")
		require.Greater(t, took, 1800*time.Millisecond, "one failure is not enough")
		require.Equal(t, "eu", r.Route(us).DC)

		sw.set("us", "eu", "ap")
		time.Sleep(5 * time.Second)
		d := r.Route(us)
		require.Equal(t, "us", d.DC, "all down: as if all were healthy")
		require.Equal(t, ReasonFailOpen, d.Reason)

		sw.set()
		time.Sleep(2500 * time.Millisecond)
		require.Equal(t, ReasonPolicy, r.Route(us).Reason)
		for _, s := range r.Snapshot() {
			require.True(t, s.Up)
			require.Empty(t, s.LastErr)
		}
		r.Close()
		require.Equal(t, "us 192.0.2.1 false", log[0])
	})
}

func TestRampAfterRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := NewRouter(RouterOptions{DCs: dcs(), Locator: table(t),
			Health: HealthOptions{Ramp: 100 * time.Second}})
		require.NoError(t, err)
		defer r.Close()
		share := func() float64 {
			n := 0
			for i := range 65536 {
				if r.Route(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 1})).DC == "us" {
					n++
				}
			}
			return float64(n) / 65536
		}
		require.Equal(t, 1.0, share())
		require.NoError(t, r.Drain("us"))
		require.Equal(t, 0.0, share())
		require.NoError(t, r.Undrain("us"))
		require.InDelta(t, 0.1, share(), 0.01)
		time.Sleep(50 * time.Second)
		require.InDelta(t, 0.5, share(), 0.06)
		time.Sleep(60 * time.Second)
		require.Equal(t, 1.0, share())
	})
}

func TestAllDownChoices(t *testing.T) {
	fail := func(r *Router) Decision {
		for _, d := range dcs() {
			require.NoError(t, r.Vote(d.Name, "probe", false))
		}
		return r.Route(ip("10.1.0.1"))
	}
	d := fail(router(t, RouterOptions{AllDown: FailClosed}))
	require.Equal(t, Decision{Reason: ReasonAllDown, Scope: d.Scope}, d)
	d = fail(router(t, RouterOptions{AllDown: FailStatic, Static: []netip.Addr{ip("192.0.2.99")}}))
	require.Equal(t, []netip.Addr{ip("192.0.2.99")}, d.Addrs)
	r := router(t, RouterOptions{})
	require.NoError(t, r.Vote("us", "a", false))
	require.NoError(t, r.Vote("us", "b", true))
	require.Equal(t, "us", r.Route(ip("10.1.0.1")).DC, "half of the votes is no quorum")
	require.NoError(t, r.Vote("us", "c", false))
	require.Equal(t, "eu", r.Route(ip("10.1.0.1")).DC)
	require.NoError(t, r.Drain("eu"))
	require.NoError(t, r.Vote("ap", "a", false))
	require.Equal(t, "us", r.Route(ip("10.1.0.1")).DC, "fail open keeps a drained center out")
}

func TestHTTPSide(t *testing.T) {
	r := router(t, RouterOptions{Locator: table(t),
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	h, err := r.Redirect("us", map[string]string{"eu": "https://eu.example.com"},
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "here")
		}))
	require.NoError(t, err)
	ask := func(client string) *httptest.ResponseRecorder {
		q := httptest.NewRequest("GET", "http://evil.example/a%2Fb?q=1", nil)
		q.RemoteAddr = "127.0.0.1:99"
		q.Header.Set("X-Forwarded-For", client)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		return w
	}
	require.Equal(t, "here", ask("10.1.0.1").Body.String())
	w := ask("10.2.0.1")
	require.Equal(t, 307, w.Code)
	require.Equal(t, "https://eu.example.com/a%2Fb?q=1", w.Header().Get("Location"))
	require.Equal(t, "here", ask("10.3.0.1").Body.String(), "no base for it")
	_, err = r.Redirect("us", map[string]string{"eu": "javascript:alert(1)"}, nil)
	require.Error(t, err)
	q := httptest.NewRequest("GET", "/", nil)
	q.RemoteAddr = "10.2.0.1:1"
	q.Header.Set("X-Center", "forged")
	w = httptest.NewRecorder()
	r.Header("X-Center", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprint(w, q.Header["X-Center"])
	})).ServeHTTP(w, q)
	require.Equal(t, "[eu]", w.Body.String())
	require.Equal(t, "forged", q.Header.Get("X-Center"), "the caller's request stays as it was")
	closed := router(t, RouterOptions{AllDown: FailClosed})
	for _, d := range dcs() {
		closed.Drain(d.Name)
	}
	w = httptest.NewRecorder()
	closed.Handler(func(d Decision) http.Handler {
		if d.DC == "" {
			return nil
		}
		return http.NotFoundHandler()
	}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 503, w.Code)
}

func TestRouterOptionsAreChecked(t *testing.T) {
	for want, o := range map[string]RouterOptions{
		"DCs": {}, "Name": {DCs: []DC{{Name: "a"}, {Name: "a"}}}, "Lat": {DCs: []DC{{Name: "a", Lat: 91}}},
		"Weight":   {DCs: []DC{{Name: "a", Weight: -1}}},
		"Addrs[0]": {DCs: []DC{{Name: "a", Addrs: []netip.Addr{{}}}}}, "StickyV4": {DCs: dcs(), StickyV4: 33},
		"AllDown": {DCs: dcs(), AllDown: 9},
	} {
		_, err := NewRouter(o)
		require.ErrorContains(t, err, want)
	}
	for line, bad := range map[string]string{"line 2": "1.2.3.4/8,EU,DE\n1.2.3.4/99,EU,DE",
		"line 1": "1.2.3.4,1.2.3.0,DE", "columns": "1.2.3.0/24"} {
		_, err := ReadCSV(strings.NewReader(bad))
		require.ErrorContains(t, err, line)
	}
}

func TestRouteDoesNotAllocate(t *testing.T) {
	for name, o := range map[string]RouterOptions{"nearest": {Locator: table(t)}, "weighted": {Policy: Weighted()}} {
		r := router(t, o)
		a := ip("10.2.3.4")
		require.Zero(t, testing.AllocsPerRun(100, func() { r.Route(a) }), name)
	}
}
