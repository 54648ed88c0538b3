package geodns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that a caller can act on; test with errors.Is.
var (
	ErrUnknownDC = errors.New("geodns: unknown data center")
	ErrClosed    = errors.New("geodns: closed")
	ErrVoters    = errors.New("geodns: too many voters")  // Vote: more than 1000 for one center
	ErrBehind    = errors.New("geodns: data is behind")   // a check of [CaughtUp]
	ErrUnequal   = errors.New("geodns: centers disagree") // [VerifyReport.Err]
)

// DC is a data center: where it is and the addresses that serve there.
type DC struct {
	Name     string
	Lat, Lon float64      // degrees, north and east positive
	Bias     float64      // kilometres taken off every distance to it; negative pushes clients away
	Weight   float64      // share in weighted policies; 0 means 1; negative is an error
	Capacity float64      // share of traffic it can take over when others fail, in any unit; 0 means 1
	Addrs    []netip.Addr // IPv4 and IPv6; one that is down is left out of answers

	Check func(ctx context.Context) error // of the whole center; nil: none
	// of each address; nil: none. A center whose addresses are all down is down
	CheckAddr func(ctx context.Context, addr netip.Addr) error
}

// HealthOptions tell how centers and addresses are checked and when one counts as down. Start-up counts as healthy.
type HealthOptions struct {
	Interval time.Duration // 0: 1 s, plus and minus 10 %
	Timeout  time.Duration // 0: the smaller of Interval and 1 s
	Rise     int           // successes in a row until up; 0: 2
	Fall     int           // failures in a row until down; 0: 3
	MinHold  time.Duration // a state lasts at least this long; 0: no minimum
	Quorum   int           // how many voters against a center take it down ([Router.Vote]); 0: more than half of them
	// a vote that is not repeated within it is forgotten, as that of a prober that died; 0: votes stay
	VoteTTL time.Duration
	Ramp    time.Duration // after recovery a center takes its traffic back from 10 % to all over this time; 0: at once
}

// AllDown says what is answered when no center is healthy.
type AllDown uint8

const (
	FailOpen   AllDown = iota // as if all were healthy: checks that fail everywhere are more likely wrong than right
	FailClosed                // no center: SERVFAIL by DNS, 503 by HTTP
	FailStatic                // RouterOptions.Static
)

// RouterOptions configure a [Router]. The zero value of every field but DCs is a good default.
type RouterOptions struct {
	DCs     []DC    // required, names unique
	Locator Locator // nil: everybody is at an unknown place
	Policy  Policy  // nil: Nearest()
	Health  HealthOptions
	AllDown AllDown
	Static  []netip.Addr // the answer when FailStatic holds
	// spread the clients of a failed center over all survivors by Capacity, not to the next nearest only
	Spill bool

	StickyV4, StickyV6 int            // prefix length that stays together in weighted choices; 0: 24 and 48
	OnChange           func(Change)   // a center or address changed; called outside of any lock, in order
	TrustedProxies     []netip.Prefix // for HTTP: networks whose X-Forwarded-For is believed; empty: nobody's
}

// Change of a center's or an address's state.
type Change struct {
	DC   string
	Addr netip.Addr // zero: the whole center
	Up   bool
	Why  string // the probe's error, "drained", "undrained", ...
	At   time.Time
}

// Router decides which center serves a client. It is safe for concurrent use; [Router.Route] takes no lock and does not
// allocate.
type Router struct {
	o    RouterOptions
	live atomic.Pointer[live]

	mu      sync.Mutex // guards what follows; never held while calling out
	dcs     []DC
	plan    *plan
	centers map[string]*center // by name
	again   *time.Timer        // rebuilds while a center ramps, and when a vote ends
	moves   uint64             // changes of centers
	closed  bool
	ctx     context.Context
	cancel  context.CancelFunc
	probes  sync.WaitGroup

	telling sync.Mutex // held while OnChange runs, so that changes arrive in order
	changes []Change   // not told yet; guarded by mu
}

// NewRouter checks the options and starts the checks of the centers that have one.
func NewRouter(o RouterOptions) (*Router, error) {
	if o.Policy == nil {
		o.Policy = Nearest()
	}
	if o.StickyV4 == 0 {
		o.StickyV4 = 24
	}
	if o.StickyV6 == 0 {
		o.StickyV6 = 48
	}
	if o.StickyV4 < 0 || o.StickyV4 > 32 || o.StickyV6 < 0 || o.StickyV6 > 64 {
		return nil, fmt.Errorf("geodns: RouterOptions.StickyV4 %d, StickyV6 %d: want at most 32 and 64", o.StickyV4,
			o.StickyV6)
	}
	if h := o.Health; h.Interval < 0 || h.Timeout < 0 || h.Rise < 0 || h.Fall < 0 || h.MinHold < 0 || h.Quorum < 0 ||
		h.VoteTTL < 0 || h.Ramp < 0 {
		return nil, fmt.Errorf("geodns: RouterOptions.Health %+v: want nothing below 0", h)
	}
	for i, a := range o.Static {
		if !a.IsValid() || a.Zone() != "" {
			return nil, fmt.Errorf("geodns: RouterOptions.Static[%d]: invalid address", i)
		}
	}
	if o.AllDown > FailStatic {
		return nil, fmt.Errorf("geodns: RouterOptions.AllDown %d: unknown", o.AllDown)
	}
	r := &Router{o: o, centers: map[string]*center{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.Update(o.DCs, o.Policy, o.Locator); err != nil {
		r.cancel()
		return nil, err
	}
	return r, nil
}

// Update replaces centers, policy (nil: Nearest) and locator while serving; centers and addresses that stay keep their
// state, their checks begin anew. On an error nothing changes.
func (r *Router) Update(dcs []DC, p Policy, l Locator) error {
	if p == nil {
		p = Nearest()
	}
	dcs, err := checkDCs(dcs)
	if err != nil {
		return err
	}
	plan, err := compile(dcs, p, l)
	if err != nil {
		return err
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	r.dcs, r.plan = dcs, plan
	r.adopt(dcs)
	r.rebuild(time.Now())
	r.mu.Unlock()
	r.tell()
	return nil
}

func checkDCs(dcs []DC) ([]DC, error) {
	if len(dcs) == 0 {
		return nil, errors.New("geodns: RouterOptions.DCs: want at least one")
	}
	if len(dcs) > 1000 {
		return nil, errors.New("geodns: RouterOptions.DCs: want at most 1000")
	}
	out := make([]DC, len(dcs))
	seen := map[string]bool{}
	for i, d := range dcs {
		switch {
		case d.Name == "" || seen[d.Name]:
			return nil, fmt.Errorf("geodns: DCs[%d].Name %q: want a name of its own", i, d.Name)
		case !(math.Abs(d.Lat) <= 90) || !(math.Abs(d.Lon) <= 180):
			return nil, fmt.Errorf("geodns: DCs[%d]: Lat %v, Lon %v out of range", i, d.Lat, d.Lon)
		case !(d.Weight >= 0) || math.IsInf(d.Weight, 0) || !(d.Capacity >= 0) || math.IsInf(d.Capacity, 0):
			return nil, fmt.Errorf("geodns: DCs[%d]: Weight %v, Capacity %v: want 0 or more", i, d.Weight, d.Capacity)
		}
		seen[d.Name] = true
		if d.Weight == 0 {
			d.Weight = 1
		}
		if d.Capacity == 0 {
			d.Capacity = 1
		}
		addrs := make([]netip.Addr, len(d.Addrs))
		for k, a := range d.Addrs {
			if !a.IsValid() || a.Zone() != "" {
				return nil, fmt.Errorf("geodns: DCs[%d].Addrs[%d]: invalid address", i, k)
			}
			addrs[k] = a.Unmap()
		}
		d.Addrs = addrs
		out[i] = d
	}
	return out, nil
}

// Decision is where a client goes.
type Decision struct {
	DC       string       // "" when none is healthy and AllDown says so
	Addrs    []netip.Addr // the healthy addresses of that center; shared: do not change it
	Location Location     // where the client is thought to be
	Scope    netip.Prefix // every address in it gets this same center, until the next change
	Reason   Reason
}

// Reason of a decision.
type Reason uint8

const (
	ReasonPolicy   Reason = iota // the policy's first tier
	ReasonFailover               // the first tier is down, drained or ramping
	ReasonFailOpen               // none is healthy, health was ignored
	ReasonAllDown                // none is healthy
)

func (r Reason) String() string {
	return [...]string{"policy", "failover", "fail-open", "all-down"}[r]
}

// Route decides for a client's address (or for the network address of its subnet).
func (r *Router) Route(client netip.Addr) Decision {
	client = client.Unmap().WithZone("")
	if !client.IsValid() {
		client = netip.IPv4Unspecified()
	}
	v := r.live.Load()
	dc, length, reason := v.route(client)
	d := Decision{Reason: reason, Location: r.Locate(client)}
	d.Scope, _ = client.Prefix(length)
	if dc >= 0 {
		d.DC, d.Addrs = v.dcs[dc].name, v.dcs[dc].addrs
	} else {
		d.Addrs = v.static
	}
	return d
}

// RouteAll returns the centers for a client in order, at most n and at most 8: the one that [Router.Route] picks, then
// those that serve when it fails. It is empty when Route's DC is.
func (r *Router) RouteAll(client netip.Addr, n int) (out []Decision) {
	if n < 1 {
		return nil
	}
	client = client.Unmap().WithZone("")
	if !client.IsValid() {
		client = netip.IPv4Unspecified()
	}
	v := r.live.Load()
	d := Decision{Location: r.Locate(client)}
	var order [maxCenters]int
	k, length, reason := v.nearest(client, order[:min(n, maxCenters)])
	for i, dc := range order[:k] {
		d.DC, d.Addrs, d.Reason = v.dcs[dc].name, v.dcs[dc].addrs, reason
		if d.Scope, _ = client.Prefix(length); i > 0 {
			d.Reason = max(reason, ReasonFailover)
		}
		out = append(out, d)
	}
	return out
}

// Locate tells where an address is thought to be.
func (r *Router) Locate(client netip.Addr) Location {
	l := r.live.Load().plan.locator
	if l == nil || !client.IsValid() {
		return Location{}
	}
	at, _ := l.Locate(client)
	return at
}

// Close stops all checks. It is idempotent; the last state stays and goes on answering.
func (r *Router) Close() error {
	r.mu.Lock()
	r.closed = true
	if r.again != nil {
		r.again.Stop()
	}
	r.mu.Unlock()
	r.cancel()
	r.probes.Wait()
	return nil
}
