package geodns

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"
)

// Errors that a caller can act on; test with errors.Is.
var (
	ErrUnknownDC = errors.New("geodns: unknown data centre")
	ErrClosed    = errors.New("geodns: closed")
)

// DC is a data centre: where it is and the addresses that serve there.
type DC struct {
	Name     string
	Lat, Lon float64      // degrees, north and east positive
	Bias     float64      // kilometres taken off every distance to it; negative pushes clients away
	Weight   float64      // share in weighted policies; 0 means 1; negative is an error
	Capacity float64      // share of traffic it can take over when others fail, in any unit; 0 means 1
	Addrs    []netip.Addr // IPv4 and IPv6; one that is down is left out of answers

	Check     func(ctx context.Context) error                  // of the whole centre; nil: none
	CheckAddr func(ctx context.Context, addr netip.Addr) error // of each address; nil: none. A centre whose addresses are all down is down
}

// HealthOptions tell how centres and addresses are checked and when one counts as down. Start-up counts as healthy.
type HealthOptions struct {
	Interval time.Duration // 0: 1 s, plus and minus 10 %
	Timeout  time.Duration // 0: the smaller of Interval and 1 s
	Rise     int           // successes in a row until up; 0: 2
	Fall     int           // failures in a row until down; 0: 3
	MinHold  time.Duration // a state lasts at least this long; 0: no minimum
	Ramp     time.Duration // after recovery a centre takes its traffic back from 10 % to all over this time; 0: at once
}

// AllDown says what is answered when no centre is healthy.
type AllDown uint8

const (
	FailOpen   AllDown = iota // as if all were healthy: checks that fail everywhere are more likely wrong than right
	FailClosed                // no centre: SERVFAIL by DNS, 503 by HTTP
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
	Spill   bool         // spread the clients of a failed centre over all survivors by Capacity, not to the next nearest only

	StickyV4, StickyV6 int            // prefix length that stays together in weighted choices; 0: 24 and 56
	OnChange           func(Change)   // a centre or address changed; called outside of any lock, in order
	TrustedProxies     []netip.Prefix // for HTTP: networks whose X-Forwarded-For is believed; empty: nobody's
}

// Change of a centre's or an address's state.
type Change struct {
	DC   string
	Addr netip.Addr // zero: the whole centre
	Up   bool
	Why  string // the probe's error, "drained", "undrained", ...
	At   time.Time
}

// Router decides which centre serves a client. It is safe for concurrent use; [Router.Route] takes no lock and does not allocate.
type Router struct{ _ struct{} }

// NewRouter checks the options and starts the checks of the centres that have one.
func NewRouter(o RouterOptions) (*Router, error) { return nil, errors.New("geodns: not built yet") }

// Decision is where a client goes.
type Decision struct {
	DC       string       // "" when all are down and AllDown says so
	Addrs    []netip.Addr // the healthy addresses of that centre; shared, do not change
	Location Location     // where the client is thought to be
	Scope    netip.Prefix // every address in it gets this same decision (until the next change)
	Reason   Reason
}

// Reason of a decision.
type Reason uint8

const (
	ReasonPolicy   Reason = iota // the policy's first choice
	ReasonFailover               // the first choice is down, drained or ramping
	ReasonFailOpen               // none is healthy, health was ignored
	ReasonAllDown                // none is healthy
)

func (r Reason) String() string { return [...]string{"policy", "failover", "fail-open", "all-down"}[r] }

// Route decides for a client's address (or for the network address of its subnet).
func (r *Router) Route(client netip.Addr) Decision { return Decision{} }

// Locate tells where an address is thought to be.
func (r *Router) Locate(client netip.Addr) Location { return Location{} }

// Drain takes a centre out of answers until [Router.Undrain].
func (r *Router) Drain(dc string) error { return nil }

// Undrain lets a centre take traffic again, with the ramp.
func (r *Router) Undrain(dc string) error { return nil }

// Vote sets a centre's health from outside, for one of several named probers; a centre is down when more than half of its voters say so.
func (r *Router) Vote(dc, voter string, up bool) error { return nil }

// DCState is the state of a centre in a [Router.Snapshot].
type DCState struct {
	Name    string
	Up      bool
	Drained bool
	Ramp    float64 // share of its traffic it takes now, 0 to 1
	Addrs   []AddrState
	Since   time.Time
	LastErr string
}

// AddrState is the state of one address.
type AddrState struct {
	Addr    netip.Addr
	Up      bool
	LastErr string
}

// Snapshot returns the state of all centres, in the order of the options.
func (r *Router) Snapshot() []DCState { return nil }

// Update replaces centres, policy and locator while serving; centres and addresses that stay keep their state.
func (r *Router) Update(dcs []DC, p Policy, l Locator) error { return nil }

// Close stops all checks. It is idempotent; the last state stays.
func (r *Router) Close() error { return nil }

// Handler serves each request with the handler that pick returns for its decision.
func (r *Router) Handler(pick func(Decision) http.Handler) http.Handler { return nil }

// Redirect answers 307 to the base URL of the client's centre ("https://eu.example.com"), path and query kept. Only
// URLs listed in bases are ever redirected to. A request that is at its centre already (self) goes to next.
func (r *Router) Redirect(self string, bases map[string]string, next http.Handler) (http.Handler, error) {
	return nil, nil
}
