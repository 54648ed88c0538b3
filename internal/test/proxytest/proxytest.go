// Package proxytest is a conformance suite for HTTP/1.1 reverse proxies: a scripted origin on one side, a scripted
// client on the other, and the proxy between them as a black box that is known by its address alone. The same cases run
// against ours in go test and against other programs in benchmarks/lb/conformance.
package proxytest

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Case is one thing that a proxy should do. Cases are independent and may run in any order.
type Case struct {
	Name  string
	About string // what must hold, with its source
	run   func(t *trial) error
}

// Options of a run.
type Options struct {
	Posts int           // requests of the cases that look for a POST sent twice; 0: 100
	Wait  time.Duration // how long anything awaited may take; 0: 10 s
}

// trial is one case against one proxy.
type trial struct {
	Options
	origin *Origin
	proxy  string
	path   string // leads to this trial's script at the origin
}

var trials atomic.Uint64

// Run plays one case against the proxy at addr, which must forward everything to o. nil: it holds.
func Run(c Case, addr string, o *Origin, opt Options) error {
	if opt.Posts == 0 {
		opt.Posts = 100
	}
	if opt.Wait == 0 {
		opt.Wait = 10 * time.Second
	}
	t := &trial{Options: opt, origin: o, proxy: addr, path: fmt.Sprintf("/%s-%d", c.Name, trials.Add(1))}
	defer o.forget(t.path)
	return c.run(t)
}

// Cases returns all of them, in the order of a table.
func Cases() []Case {
	var all []Case
	for _, part := range [][]Case{informational, upgrades, streams, lengths, hops, reuse, strictness} {
		all = append(all, part...)
	}
	return all
}
