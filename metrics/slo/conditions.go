package slo

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// figures are what the conditions of an objective are about.
type figures interface {
	// rates returns bad events and all events a second over a window; NaN where nothing is known.
	rates(window time.Duration) (bad, total float64)
	// mean returns the usual rate of all events: its mean over usualWindow, or since the start.
	mean() float64
}

const usualWindow = 7 * 24 * time.Hour

// condition is one condition in two languages: PromQL for Prometheus, and a function for Status and tests. The function
// is nil where the figures of one process do not suffice.
type condition struct {
	expr  string
	holds func(f figures) bool
}

func all(cs ...condition) condition {
	var exprs []string
	for _, c := range cs {
		exprs = append(exprs, c.expr)
	}
	return condition{"(" + strings.Join(exprs, " and ") + ")", func(f figures) bool {
		for _, c := range cs {
			if !c.holds(f) {
				return false
			}
		}
		return true
	}}
}

func anyOf(cs ...condition) condition {
	var exprs []string
	for _, c := range cs {
		exprs = append(exprs, c.expr)
	}
	return condition{strings.Join(exprs, " or "), func(f figures) bool {
		for _, c := range cs {
			if c.holds(f) {
				return true
			}
		}
		return false
	}}
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 8, 64) }

// series names the recorded series of one objective. Several objectives share the names, so each use has a selector.
type series struct{ prefix, selector string }

func (n series) bad(w time.Duration) string {
	return n.prefix + ":bad:rate" + promDuration(w) + n.selector
}

func (n series) total(w time.Duration) string {
	return n.prefix + ":total:rate" + promDuration(w) + n.selector
}

func (n series) mean() string { return n.prefix + ":total:mean" + n.selector }

// above holds when more than a share of the events of a window was bad. It is a product instead of a quotient, so that
// nothing divides by zero.
func (n series) above(w time.Duration, share float64) condition {
	return condition{fmt.Sprintf("%s > %s * %s", n.bad(w), number(share), n.total(w)), func(f figures) bool {
		bad, total := f.rates(w)
		return bad > share*total
	}}
}

// count holds when a window had at least so many bad events.
func (n series) count(w time.Duration, least float64) condition {
	return condition{fmt.Sprintf("%s * %s >= %s", n.bad(w), number(w.Seconds()), number(least)), func(f figures) bool {
		bad, _ := f.rates(w)
		return bad*w.Seconds() >= least
	}}
}

// certain holds when a window had more bad events than a service that just meets its objective has by chance: z
// standard deviations of a binomial count above the mean. b is the share of bad events that the objective allows.
func (n series) certain(w time.Duration, b, z float64) condition {
	s := w.Seconds()
	return condition{fmt.Sprintf("%s * %s - %s * %s > %s * sqrt(%s * %s)", n.bad(w), number(s), number(b*s), n.total(w),
		number(z), number(b*(1-b)*s), n.total(w)), func(f figures) bool {
		bad, total := f.rates(w)
		expected := b * s * total
		return bad*s-expected > z*math.Sqrt(expected*(1-b))
	}}
}

// spent holds when the bad events of a window spend the budget of the usual traffic too fast, whatever the traffic of
// the window itself: in the rush hours a share of bad events that looks harmless spends much.
func (n series) spent(w time.Duration, burn, b float64) condition {
	return condition{fmt.Sprintf("%s > %s * %s", n.bad(w), number(burn*b), n.mean()), func(f figures) bool {
		bad, _ := f.rates(w)
		return bad > burn*b*f.mean()
	}}
}
