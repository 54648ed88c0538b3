package dashboard

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/tierkit/tierkit/metrics/audience"
	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/security"
)

// Options configure the page. The zero value shows HTTP, the objectives and, where package host is registered, the
// machine.
type Options struct {
	// Title is that of the page. Empty means "Service".
	Title string
	// Authorize lets a request see the page and all that is below it. Nil means FromThisMachine.
	Authorize func(*http.Request) bool

	// Topology, Panels, Events, Tiles and Actions are the application's own; all may be nil. They are called when the
	// page asks for data (Panels each Interval), by several goroutines at once; what one of them panics with is logged,
	// and its part of the page stays empty.
	Topology func() Topology
	Panels   []Panel
	Events   func() []Event
	// Tiles are figures that stand alone: revenue, unique users today.
	Tiles func() []Figure
	// Actions are buttons for the whole service; those for one node are in Node.Actions.
	Actions func() []Action

	// Act carries out an action that is offered at present. The target is the ID of a node, or empty for the whole
	// service. The context ends when the client leaves, at the latest after a minute. Nil offers no actions.
	Act func(ctx context.Context, target, action string) error
	// Secret must be sent with each action, in the header X-Dashboard-Secret: being allowed to look is not being
	// allowed to break things. Make one for each run, and print it where only operators see it. It is required for Act,
	// with at least 16 bytes.
	Secret string

	// Retention adds the table of cohorts.
	Retention *audience.Retention
	// Logs adds error groups, the search of the latest records, and the level to change.
	Logs *logs.Handler
	// Store is searched instead of Logs: that of the collector that all servers ship to.
	Store *logs.Store
	// Security adds its events, and gets those of calls of this page that were refused.
	Security *security.Stream

	// Interval is the time between two points of the charts. Zero means 1 s.
	Interval time.Duration
	// History is how many points are kept. Zero means 180.
	History int
	// RouteWindow is the time that the figures of routes are about. Zero means 1 min.
	RouteWindow time.Duration
	// Apdex is the time within which an answer satisfies; up to four times as long is tolerated (Application
	// Performance Index 1.1). Zero means 500 ms.
	Apdex time.Duration
	// Logger gets what fails in the functions above, at level Warn. Nil means slog.Default().
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	for _, d := range []struct {
		name string
		d    *time.Duration
		zero time.Duration
	}{{"Interval", &o.Interval, time.Second}, {"RouteWindow", &o.RouteWindow, time.Minute},
		{"Apdex", &o.Apdex, 500 * time.Millisecond}} {
		if *d.d < 0 {
			return o, fmt.Errorf("dashboard: Options.%s is %v: want more than 0", d.name, *d.d)
		}
		if *d.d == 0 {
			*d.d = d.zero
		}
	}
	if o.History < 0 {
		return o, fmt.Errorf("dashboard: Options.History is %d: want at least 1", o.History)
	}
	if o.Act != nil && len(o.Secret) < 16 {
		return o, fmt.Errorf("dashboard: Options.Secret has %d bytes: Act needs at least 16", len(o.Secret))
	}
	for i, p := range o.Panels {
		if p.Title == "" || p.Read == nil {
			return o, fmt.Errorf("dashboard: Options.Panels[%d] %q: want a Title and a Read", i, p.Title)
		}
	}
	if o.History == 0 {
		o.History = 180
	}
	if o.Title == "" {
		o.Title = "Service"
	}
	if o.Authorize == nil {
		o.Authorize = FromThisMachine
	}
	if o.Store == nil && o.Logs != nil {
		o.Store = o.Logs.Store()
	}
	return o, nil
}
