// Command conformance plays every case of internal/test/proxytest against nginx, HAProxy, Caddy, oxy, net/http's
// ReverseProxy and tierkit, and prints a table. A proxy that is not installed is left out.
//
//	go run ./lb/conformance [-posts 10000] [-proxies nginx,caddy] [-v]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tierkit/tierkit/benchmarks/lb/contender"
	"github.com/tierkit/tierkit/internal/test/proxytest"
)

var defaults = []string{"tierkit", "tierkit-front", "nginx", "haproxy", "caddy", "oxy", "stock"}

func main() {
	contender.Main()
	posts := flag.Int("posts", 1000, "POSTs of the cases that look for one sent twice")
	proxies := flag.String("proxies", strings.Join(defaults, ","), "what to run against")
	verbose := flag.Bool("v", false, "print why a case fails")
	flag.Parse()
	names := strings.Split(*proxies, ",")
	results, err := table(names, *posts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "case")
	for _, n := range names {
		if results[n] != nil {
			fmt.Fprint(w, "\t", n)
		}
	}
	fmt.Fprintln(w)
	for i, c := range proxytest.Cases() {
		fmt.Fprint(w, c.Name)
		for _, n := range names {
			if results[n] == nil {
				continue
			}
			word := "ok"
			if results[n][i] != nil {
				word = "FAILS"
			}
			fmt.Fprint(w, "\t", word)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	if *verbose {
		for _, n := range names {
			for i, c := range proxytest.Cases() {
				if results[n] != nil && results[n][i] != nil {
					fmt.Printf("%s: %s: %v\n", n, c.Name, results[n][i])
				}
			}
		}
	}
}

// table plays all cases against each proxy; those that are not installed are missing from it.
func table(names []string, posts int) (map[string][]error, error) {
	out := map[string][]error{}
	for _, n := range names {
		c, err := contender.Named(n)
		if err != nil {
			return nil, err
		}
		o, err := proxytest.NewOrigin()
		if err != nil {
			return nil, err
		}
		p, err := c.Start(o.Addr())
		if errors.Is(err, contender.ErrMissing) {
			fmt.Fprintln(os.Stderr, n, "is not installed")
			o.Close()
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, c := range proxytest.Cases() {
			progress("\r%s: %-40s", n, c.Name)
			out[n] = append(out[n], proxytest.Run(c, p.Addr, o, proxytest.Options{Posts: posts, Wait: 5 * time.Second}))
		}
		p.Stop()
		o.Close()
	}
	progress("\r%60s\r", "")
	return out, nil
}

// progress goes to a terminal only.
func progress(format string, args ...any) {
	if s, err := os.Stderr.Stat(); err == nil && s.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, format, args...)
	}
}
