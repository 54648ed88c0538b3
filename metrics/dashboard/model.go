package dashboard

import (
	"encoding/json"
	"math"
	"time"
)

// States of a node. Anything else is shown as it is.
const (
	StateUp       = "up"
	StateSlow     = "slow"   // answers, but not as fast as it should
	StateFrozen   = "frozen" // does not answer, and is not known to be dead
	StateDown     = "down"
	StateDraining = "draining" // answers what it has and gets nothing new
	StateNew      = "new"      // has come, and gets no full share yet
)

// Node is a box of the dashboard's topology.
type Node struct {
	ID    string `json:"id"`
	Label string `json:"label"`
	// Tier is the column: nodes flow from left to right in the order in which tiers first appear.
	Tier string `json:"tier"`
	// Zone groups nodes of a column, such as a data center.
	Zone string `json:"zone,omitempty"`
	// State is one of the constants of this package, and Since when it began: zero if that is not known.
	State string    `json:"state"`
	Since time.Time `json:"since,omitzero"`
	// Detail is a second line: a role, a size, a lag.
	Detail string `json:"detail,omitempty"`
	// Figures describe the node more closely than there is room for in its box.
	Figures []Figure `json:"figures,omitempty"`
	// Actions are what can be done to the node now, by Options.Act.
	Actions []Action `json:"actions,omitempty"`
}

// Figure is a number with its name. A Value of NaN is unknown, and shown as "–".
type Figure struct {
	Name  string
	Value float64
	Unit  string // shown behind the value: "ms", "%", "EUR"
}

// MarshalJSON implements json.Marshaler: JSON has no NaN.
func (f Figure) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name  string   `json:"name"`
		Value *float64 `json:"value"`
		Unit  string   `json:"unit"`
	}{f.Name, known(f.Value), f.Unit})
}

// known returns nil for what is no number.
func known(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// Action is something that an operator can do, as a button.
type Action struct {
	// Name is what Options.Act gets: "kill", "drain", "restore".
	Name string
	// Label is the text of the button. Empty means Name.
	Label string
	// Active means that it is in progress or in force; pressing it again calls Act again.
	Active bool
	// Progress is from 0 to 1 while it is active; NaN, or 0 where it is not active, shows none.
	Progress float64
	// Detail says how far it is: "slot 311 of 1024".
	Detail string
}

// MarshalJSON implements json.Marshaler.
func (a Action) MarshalJSON() ([]byte, error) {
	if a.Label == "" {
		a.Label = a.Name
	}
	p := known(a.Progress)
	if !a.Active {
		p = nil
	}
	return json.Marshal(struct {
		Name     string   `json:"name"`
		Label    string   `json:"label"`
		Active   bool     `json:"active"`
		Progress *float64 `json:"progress"`
		Detail   string   `json:"detail,omitempty"`
	}{a.Name, a.Label, a.Active, p, a.Detail})
}

// Kinds of edges.
const (
	KindTraffic     = "traffic"
	KindReplication = "replication"
)

// Edge is an arrow between two nodes, drawn the thicker the more traffic it carries. Rates are per second; NaN is
// unknown.
type Edge struct {
	From string
	To   string
	// Kind is KindTraffic or KindReplication. Empty means KindTraffic.
	Kind string
	// Rate counts requests or messages, without probes, and Errors those of them that failed.
	Rate   float64
	Errors float64
	// Probes counts health checks.
	Probes float64
}

// MarshalJSON implements json.Marshaler.
func (e Edge) MarshalJSON() ([]byte, error) {
	if e.Kind == "" {
		e.Kind = KindTraffic
	}
	return json.Marshal(struct {
		From   string   `json:"from"`
		To     string   `json:"to"`
		Kind   string   `json:"kind"`
		Rate   *float64 `json:"rate"`
		Errors *float64 `json:"errors"`
		Probes *float64 `json:"probes"`
	}{e.From, e.To, e.Kind, known(e.Rate), known(e.Errors), known(e.Probes)})
}

// Topology is what traffic flows through.
type Topology struct {
	Nodes []Node `json:"nodes"`
	Edges []Edge `json:"edges"`
}

// Value is one line of a chart now. NaN is no point: a gap in the line.
type Value struct {
	Name  string
	Value float64
}

// Panel is a chart.
type Panel struct {
	Title string
	// Unit is shown behind values: "req/s", "ms", "%".
	Unit string
	// Read returns the current value of each line. It is called each Options.Interval, in a goroutine of its own, and
	// not again before it has returned.
	Read func() []Value
	// PromQL is the same in Prometheus's language, for the dashboard of slo.Grafana. Empty leaves the panel out there.
	PromQL string
}

// Phases of an incident.
const (
	PhaseInjected = "injected" // somebody broke something on purpose
	PhaseNoticed  = "noticed"  // the service saw it
	PhaseMended   = "mended"   // clients are served as before, with or without what is broken
	PhaseRestored = "restored" // what was broken is back
)

// Event is an entry of the timeline.
type Event struct {
	At   time.Time `json:"at"`
	Kind string    `json:"kind"` // "failure", "recovery", "scale", "info", "deploy"
	Text string    `json:"text"`
	// ID joins the events of one incident; empty for an event that stands alone. Phase says which of them it is.
	ID    string `json:"id,omitempty"`
	Phase string `json:"phase,omitempty"`
	// Target is the ID of the node that it is about.
	Target string `json:"target,omitempty"`
	// Felt is what clients felt so far; nil where it was not measured.
	Felt *Felt `json:"felt,omitempty"`
}

// Felt is what clients felt of an incident, from when it began.
type Felt struct {
	Requests uint64
	Errors   uint64
	P99      time.Duration
	// Text adds what numbers do not say: "writes waited 0.8 s".
	Text string
}

// MarshalJSON implements json.Marshaler.
func (f Felt) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Requests uint64  `json:"requests"`
		Errors   uint64  `json:"errors"`
		P99      float64 `json:"p99_ms"`
		Text     string  `json:"text,omitempty"`
	}{f.Requests, f.Errors, milliseconds(f.P99), f.Text})
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// incident joins the events of one ID.
type incident struct {
	ID       string     `json:"id"`
	Target   string     `json:"target,omitempty"`
	Text     string     `json:"text"` // of its first event
	Injected *time.Time `json:"injected,omitempty"`
	Noticed  *time.Time `json:"noticed,omitempty"`
	Mended   *time.Time `json:"mended,omitempty"`
	Restored *time.Time `json:"restored,omitempty"`
	Felt     *Felt      `json:"felt,omitempty"` // the latest
}

// joinIncidents returns the incidents of the events, in the order of their first ones. Of two events of one phase the
// first counts: a service may notice a failure many times.
func joinIncidents(events []Event) []*incident {
	out := []*incident{}
	byID := map[string]*incident{}
	for _, e := range events {
		if e.ID == "" {
			continue
		}
		in := byID[e.ID]
		if in == nil {
			in = &incident{ID: e.ID, Text: e.Text}
			byID[e.ID] = in
			out = append(out, in)
		}
		if in.Target == "" {
			in.Target = e.Target
		}
		if e.Felt != nil {
			in.Felt = e.Felt
		}
		at := map[string]**time.Time{PhaseInjected: &in.Injected, PhaseNoticed: &in.Noticed, PhaseMended: &in.Mended,
			PhaseRestored: &in.Restored}[e.Phase]
		if at != nil && *at == nil {
			*at = &e.At
		}
	}
	return out
}
