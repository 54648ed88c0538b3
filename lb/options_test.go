package lb

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// valid is a configuration in which every field has a meaning.
func valid() Options {
	return Options{
		Policy: PowerOfTwo(), Key: KeyPath(), Health: Health{Interval: time.Second, Rise: 1, Fall: 1},
		Outlier: Outlier{Consecutive: 3, ErrorRate: 0.5, MinRequests: 10, MaxShare: 0.5}, SlowStart: time.Second,
		PanicThreshold: 0.4, Zone: "a", Subset: Subset{Size: 2, ID: "x"}, MaxConns: 5, MaxQueue: 5,
		Adaptive: &Adaptive{Min: 2, Max: 10, Initial: 5}, Retry: Retry{Max: 1, Budget: 0.1, Statuses: []int{503}},
		Hedge:       Hedge{After: time.Second, Quantile: 0.9},
		AllowedNets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}
}

// Each mutation of a valid configuration is an error that names the field, or harmless: the balancer then picks as the
// unmutated one does.
func TestMutatedOptions(t *testing.T) {
	nan := math.NaN()
	for name, c := range map[string]struct {
		mutate func(o *Options)
		field  string // "": harmless
	}{
		"nothing":               {func(o *Options) {}, ""},
		"no policy":             {func(o *Options) { o.Policy = nil }, ""},
		"prequal rate":          {func(o *Options) { o.Policy = Prequal(PrequalOptions{Rate: nan}) }, "Prequal"},
		"health interval":       {func(o *Options) { o.Health.Interval = -1 }, "Health"},
		"health timeout":        {func(o *Options) { o.Health.Timeout = -1 }, "Health"},
		"health rise":           {func(o *Options) { o.Health.Rise = -1 }, "Health"},
		"health fall":           {func(o *Options) { o.Health.Fall = -1 }, "Health"},
		"health hold":           {func(o *Options) { o.Health.MinHold = -1 }, "Health"},
		"outlier row":           {func(o *Options) { o.Outlier.Consecutive = -1 }, "Outlier"},
		"outlier rate":          {func(o *Options) { o.Outlier.ErrorRate = 1.5 }, "Outlier"},
		"outlier rate NaN":      {func(o *Options) { o.Outlier.ErrorRate = nan }, "Outlier"},
		"outlier share NaN":     {func(o *Options) { o.Outlier.MaxShare = nan }, "Outlier"},
		"outlier requests":      {func(o *Options) { o.Outlier.MinRequests = -1 }, "Outlier"},
		"slow start":            {func(o *Options) { o.SlowStart = -1 }, "SlowStart"},
		"panic":                 {func(o *Options) { o.PanicThreshold = 1.1 }, "PanicThreshold"},
		"panic NaN":             {func(o *Options) { o.PanicThreshold = nan }, "PanicThreshold"},
		"panic off":             {func(o *Options) { o.PanicThreshold = -1 }, ""},
		"subset size":           {func(o *Options) { o.Subset.Size = -1 }, "Subset.Size"},
		"subset without ID":     {func(o *Options) { o.Subset.ID = "" }, "Subset.ID"},
		"conns":                 {func(o *Options) { o.MaxConns = -1 }, "MaxConns"},
		"no queue":              {func(o *Options) { o.MaxQueue = -1 }, ""},
		"queue timeout off":     {func(o *Options) { o.QueueTimeout = -1 }, ""},
		"adaptive min":          {func(o *Options) { o.Adaptive.Min = -1 }, "Adaptive"},
		"adaptive max":          {func(o *Options) { o.Adaptive.Max = 1 }, "Adaptive"},
		"adaptive tolerance":    {func(o *Options) { o.Adaptive.Tolerance = nan }, "Adaptive"},
		"adaptive window":       {func(o *Options) { o.Adaptive.Window = -1 }, "Adaptive"},
		"no retry":              {func(o *Options) { o.Retry.Max = -1 }, ""},
		"budget NaN":            {func(o *Options) { o.Retry.Budget = nan }, "Retry.Budget"},
		"a status that is none": {func(o *Options) { o.Retry.Statuses = []int{99} }, "Retry.Statuses"},
		"hedge after":           {func(o *Options) { o.Hedge.After = -1 }, "Hedge"},
		"hedge quantile":        {func(o *Options) { o.Hedge.Quantile = 1 }, "Hedge"},
		"hedge quantile NaN":    {func(o *Options) { o.Hedge.Quantile = nan }, "Hedge"},
		"nets":                  {func(o *Options) { o.AllowedNets = []netip.Prefix{{}} }, "AllowedNets"},
		"timeouts off":          {func(o *Options) { o.Timeouts = Timeouts{-1, -1, -1, -1, -1, -1} }, ""},
		"no idle connections":   {func(o *Options) { o.MaxIdle = -1 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := valid()
			c.mutate(&o)
			b, err := New(endpoints(3), o)
			if c.field != "" {
				require.ErrorContains(t, err, c.field)
				return
			}
			require.NoError(t, err)
			defer b.Close()
			require.Len(t, b.Backends(), 2)
			for range 10 {
				p, err := b.Pick(t.Context(), Key{})
				require.NoError(t, err)
				p.Done(Result{Status: 200})
			}
			require.Zero(t, b.Stats().InFlight)
		})
	}
}

func TestMutatedEndpoints(t *testing.T) {
	for _, addr := range []string{"", "host", ":80", "host:", "host:0", "host:99999", "host:http", "unix:/x.sock",
		"a b:80", "a\n:80", "http://a:80", "::1:80", "[]:80"} {
		require.ErrorContains(t, Endpoint{Addr: addr}.Validate(), "Addr", addr)
	}
	for _, addr := range []string{"host:80", "192.0.2.1:80", "[::1]:80", "a-b.example:65535"} {
		require.NoError(t, Endpoint{Addr: addr}.Validate(), addr)
	}
	for want, e := range map[string]Endpoint{"Weight": {Weight: math.Inf(1)}, "Scheme": {Scheme: "gopher"},
		"MaxConns": {MaxConns: -1}, "Priority": {Priority: -1}} {
		e.Addr = "host:80"
		require.ErrorContains(t, e.Validate(), want)
		e.Weight = math.NaN()
		require.Error(t, e.Validate())
	}
	for want, o := range map[string]ProxyOptions{"MaxBody": {MaxBody: -1},
		"TrustedProxies": {TrustedProxies: []netip.Prefix{{}}},
		"Sticky.Keys":    {Sticky: &Sticky{Keys: []StickyKey{{ID: "a", Secret: []byte("short")}}}}} {
		_, err := newBalancer(t, nil, Options{}).Handler(o)
		require.ErrorContains(t, err, want)
	}
}
