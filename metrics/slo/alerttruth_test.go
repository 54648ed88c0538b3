package slo

import "math"

// truth is what an operator may expect, from what really happened and the budget alone: no window, threshold or scrape
// of any rule is in it. Times are seconds; -1 is never. Between "must" and "none" lies what is left to the rule.
type truth struct {
	pageBy, ticketBy     int // latest moment to have fired; -1: need not
	noPage, noTicket     bool
	pageGone, ticketGone int // after this nothing may fire
	from                 int // nothing may fire before
	needsProbe           bool
	why                  string
}

const (
	certainly = 20.0 // bad events that make an incident certain
	tooFew    = 5.0  // and those that make none
	grace     = 300
	marginUp  = 1.25
	marginDn  = 0.8
)

func (w *world) truth() truth {
	b := 1 - w.s.Objective
	budget := b * w.s.Rate * month // bad events that 30 days may have
	x := truth{pageBy: -1, ticketBy: -1, from: w.start, pageGone: w.end + 36*60, ticketGone: w.end + 6*3600 + 15*60}
	if w.kind == "" {
		x.noPage, x.noTicket, x.why = true, true, "nothing is wrong"
		if w.s.Fault == "scrapehalf" {
			x.noTicket, x.why = false, "two of three targets cannot be scraped: a ticket at most"
		}
		return x
	}
	if w.kind == "gone" || w.kind == "dead" {
		x.why = "nobody reaches the service"
		switch {
		case w.probes || w.kind == "dead":
			x.pageBy = w.start + 15*60
		case w.minTraffic >= 50:
			x.pageBy = w.start + 25*60
		default:
			x.needsProbe = true
		}
		return x
	}
	enough, blind := certainly, 1.0
	if w.s.Fault == "halfblind" { // only a third of it can be known
		enough, blind = 3*certainly, 3
	}
	// Sums over the past, at each bin.
	n := len(w.bad)
	cb, ct := make([]float64, n+1), make([]float64, n+1)
	for i := range n {
		cb[i+1], ct[i+1] = cb[i]+w.bad[i], ct[i]+w.total[i]
	}
	over := func(c []float64, i, window int) float64 { return c[i] - c[max(0, i-window/bin)] }
	var max1, max6, max24, max72, r1, r6, r24, r72 float64
	ratio := func(i, window int) float64 { return over(cb, i, window) / math.Max(1, over(ct, i, window)) }
	run, runBad, longest := 0, 0.0, 0
	for i := w.start/bin + 1; i <= min(n, w.end/bin); i++ {
		b1, b6, b24, b72 := over(cb, i, 3600), over(cb, i, 6*3600), over(cb, i, daySecs), over(cb, i, 3*daySecs)
		max1, max6, max24, max72 = math.Max(max1, b1/budget), math.Max(max6, b6/budget), math.Max(max24, b24/budget),
			math.Max(max72, b72/budget)
		r1, r6, r24, r72 = math.Max(r1, ratio(i, 3600)), math.Max(r6, ratio(i, 6*3600)),
			math.Max(r24, ratio(i, daySecs)), math.Max(r72, ratio(i, 3*daySecs))
		if w.p[i-1] >= 0.9 {
			run += bin
			runBad += w.bad[i-1]
			longest = max(longest, run)
		} else {
			run, runBad = 0, 0
		}
		if x.pageBy < 0 && (b1 >= math.Max(enough, 0.02*marginUp*budget*blind) ||
			b6 >= math.Max(enough, 0.05*marginUp*budget*blind) || run >= 20*60 && runBad >= enough) &&
			w.p[i-1] >= 2*b*0.99 || x.pageBy < 0 && run >= 20*60 && runBad >= enough {
			x.pageBy = i*bin + grace
			x.why = "2 % in an hour, 5 % in six, or 20 minutes of nothing but errors"
		}
		if x.ticketBy < 0 && b72 >= math.Max(50, 0.10*marginUp*budget) && w.p[i-1] >= 1.5*b {
			x.ticketBy = i*bin + 3600
		}
	}
	bad := over(cb, min(n, w.end/bin+1), w.end-w.start+bin)
	x.noPage = bad < tooFew || max1 < 0.02*marginDn && max6 < 0.05*marginDn && r1 < 14.4*b*marginDn &&
		r6 < 6*b*marginDn && longest < 5*60
	x.noTicket = bad < tooFew || max24 < 0.1*marginDn && max72 < 0.1*marginDn && r24 < 3*b*marginDn &&
		r72 < b*marginDn && longest < 5*60
	if w.s.Fault == "slow1x" {
		x.noTicket = false // exactly the budget: either answer is right
	}
	if w.probes && longest >= 5*60 { // seen from outside, whether there are requests or not
		x.noPage, x.noTicket = false, false
		if by := w.start + 20*60 + grace; longest >= 20*60 && (x.pageBy < 0 || by < x.pageBy) && w.s.Fault != "flap" {
			x.pageBy = by
			x.why = "20 minutes of nothing but errors, seen by probes"
		}
	}
	if x.pageBy >= 0 {
		x.noPage, x.noTicket = false, false
	}
	if x.ticketBy >= 0 || w.s.Fault == "halfblind" { // there, targets are missing as well
		x.noTicket = false
	}
	return x
}
