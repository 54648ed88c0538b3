package metrics

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/tierkit/tierkit/metrics/internal/expo"
)

// Options configure Metrics. The zero value is ready.
type Options struct {
	// Namespace prefixes the series of this package and of its parts ("shop_http_requests_total"). It consists of
	// letters, digits and "_", and does not begin with a digit. Empty means none.
	Namespace string
	// NoRuntime leaves out the series of the Go runtime and of the process: go_*, process_* and go_build_info.
	NoRuntime bool
	// Timeout bounds how long a scrape waits for a collector. A collector that takes longer costs its own series only;
	// until it returns, scrapes do not call it again. Zero means 5 s.
	Timeout time.Duration
	// Logger gets a record at level Warn when a collector fails, at most one a minute for each collector. Nil means
	// slog.Default().
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Namespace != "" && !expo.ValidName(o.Namespace) {
		return o, fmt.Errorf("metrics: Options.Namespace %q: want letters, digits and _, not beginning with a digit",
			o.Namespace)
	}
	if o.Timeout < 0 {
		return o, fmt.Errorf("metrics: Options.Timeout is %v: want more than 0", o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	return o, nil
}
