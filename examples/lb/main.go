// Command lb shows a load balancer at work: four web servers behind one address, how each policy shares requests out, a
// server that is killed under load without an error at a client, a drain, a sticky client, and a server that stalls now
// and then, whose requests are hedged.
//
//	go run ./examples/lb
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/front"
	"github.com/tierkit/tierkit/lb/policy"
	"github.com/tierkit/tierkit/lb/probe"
)

func main() {
	requests := flag.Int("requests", 2000, "requests per policy")
	flag.BoolVar(&ownFront, "front", false, "serve with lb/front, the balancer's own HTTP/1 server, in place of net/http")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(),
			"Shows a load balancer at work; takes about three seconds and needs nothing.\n\nusage: lb [-requests N] [-front]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *requests < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*requests); err != nil {
		log.SetFlags(0)
		log.Fatal("lb: ", err)
	}
}

func run(requests int) error {
	var servers []*server
	var pool []lb.Endpoint
	for i, name := range []string{"web-a", "web-b", "web-c", "web-d"} {
		s, err := start(name, "127.0.0.1:0", time.Duration(i+1)*300*time.Microsecond)
		if err != nil {
			return err
		}
		defer s.stop()
		servers = append(servers, s)
		pool = append(pool, lb.Endpoint{ID: name, Addr: s.addr})
	}
	pool[0].Weight = 2
	fmt.Println("Four web servers; web-a has twice the weight, and each is slower than the one before it.")

	for _, p := range []struct {
		name string
		by   lb.Policy
	}{
		{"round robin", policy.RoundRobin()}, {"weighted round robin", policy.WeightedRoundRobin()},
		{"least connections", policy.LeastConnections()}, {"two random choices", lb.PowerOfTwo()},
		{"peak EWMA", policy.PeakEWMA(0)}, {"client address hash", policy.SourceHash()},
		{"consistent hash of path", policy.ConsistentHash(0)}, {"maglev", policy.Maglev()},
	} {
		b, err := lb.New(pool, lb.Options{Policy: p.by, Key: lb.KeyPath()})
		if err != nil {
			return err
		}
		got, failed, _ := load(b, requests, nil)
		b.Close()
		fmt.Printf("  %-24s %s\n", p.name, shares(got, pool))
		if failed > 0 {
			return fmt.Errorf("%d requests failed", failed)
		}
	}

	b, err := lb.New(pool, lb.Options{
		Health: lb.Health{Probe: probe.HTTP("/"), Interval: 50 * time.Millisecond},
		Hooks: &lb.Hooks{State: func(be *lb.Backend, from, to lb.BackendState) {
			fmt.Printf("  event: %s %s -> %s\n", be.ID(), from, to)
		}},
	})
	if err != nil {
		return err
	}
	defer b.Close()
	fmt.Println("\nweb-c is killed and comes back while clients ask:")
	_, failed, n := load(b, 0, func() {
		time.Sleep(100 * time.Millisecond)
		servers[2].stop()
		time.Sleep(500 * time.Millisecond)
		if s, err := start("web-c", servers[2].addr, time.Millisecond); err == nil {
			servers[2] = s
		}
		time.Sleep(400 * time.Millisecond)
	})
	defer func() { servers[2].stop() }()
	fmt.Printf("  %d requests, %d errors at clients, %d tried again on another server\n", n, failed, b.Stats().Retries)
	if failed > 0 {
		return fmt.Errorf("%d clients saw the failure", failed)
	}

	fmt.Println("\nA client with a cookie stays on one server until it drains:")
	url, stop := listen(b, lb.ProxyOptions{Sticky: &lb.Sticky{}})
	defer stop()
	jar, _ := cookiejar.New(nil)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Jar: jar, Transport: transport}
	var seen []string
	for i := range 6 {
		if i == 3 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			err := b.Drain(ctx, seen[2])
			cancel()
			if err != nil {
				return err
			}
		}
		res, err := client.Get(url)
		if err != nil {
			return err
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		seen = append(seen, string(body))
	}
	fmt.Println("  " + strings.Join(seen, " "))
	if seen[0] != seen[2] || seen[3] == seen[2] || seen[3] != seen[5] {
		return fmt.Errorf("the client was not kept together: %v", seen)
	}
	return hedging(pool[:3])
}

// hedging asks two good servers and one that stalls for 100 ms now and then, without and with hedging.
func hedging(pool []lb.Endpoint) error {
	fmt.Println("\nweb-z stalls for 100 ms now and then. The slowest one in a hundred requests takes at least:")
	var asked atomic.Int64
	z, err := serve("127.0.0.1:0", func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1)%10 == 0 {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		io.WriteString(w, "web-z")
	})
	if err != nil {
		return err
	}
	defer z.stop()
	pool = append([]lb.Endpoint{{ID: "web-z", Addr: z.addr}}, pool[:2]...)
	for _, hedge := range []lb.Hedge{{}, {After: 5 * time.Millisecond, Quantile: 0.9}} {
		b, err := lb.New(pool, lb.Options{Policy: policy.RoundRobin(), Hedge: hedge})
		if err != nil {
			return err
		}
		h, err := b.Handler(lb.ProxyOptions{})
		if err != nil {
			return err
		}
		var took []time.Duration
		for range 600 {
			began := time.Now()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://site.example/", nil))
			took = append(took, time.Since(began))
		}
		st := b.Stats()
		b.Close()
		slices.Sort(took)
		fmt.Printf("  %-16s %4d ms, %d of 600 were sent to two servers\n",
			map[bool]string{false: "without hedging", true: "with hedging"}[hedge.After > 0],
			took[len(took)*99/100].Milliseconds(), st.Hedges)
	}
	return nil
}

type server struct {
	addr string
	stop func()
}

func start(name, addr string, work time.Duration) (*server, error) {
	return serve(addr, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(work)
		io.WriteString(w, name)
	})
}

func serve(addr string, h http.HandlerFunc) (*server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	return &server{l.Addr().String(), func() { s.Close(); <-done }}, nil
}

var ownFront bool

// listen serves b on a free port: behind net/http or, for a tier that does nothing else, by itself.
func listen(b *lb.Balancer, o lb.ProxyOptions) (url string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	if ownFront {
		f, err := front.New(b, front.Options{Proxy: o})
		if err != nil {
			log.Fatal(err)
		}
		go f.Serve(l)
		return "http://" + l.Addr().String(), func() { f.Close() }
	}
	h, err := b.Handler(o)
	if err != nil {
		log.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	return "http://" + l.Addr().String(), func() { s.Close() }
}

// load sends n requests, or as many as it can while during runs.
func load(b *lb.Balancer, n int, during func()) (got map[string]int, failed, sent int64) {
	url, stop := listen(b, lb.ProxyOptions{})
	defer stop()
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var mu sync.Mutex
	got = map[string]int{}
	var next, bad atomic.Int64
	var over atomic.Bool
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for !over.Load() {
				i := next.Add(1)
				if during == nil && i > int64(n) {
					return
				}
				res, err := client.Get(fmt.Sprintf("%s/page/%d", url, i%200))
				if err != nil {
					bad.Add(1)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 {
					bad.Add(1)
				}
				mu.Lock()
				got[string(body)]++
				mu.Unlock()
			}
		})
	}
	if during != nil {
		during()
		over.Store(true)
	}
	wg.Wait()
	return got, bad.Load(), next.Load()
}

func shares(got map[string]int, pool []lb.Endpoint) string {
	total := 0
	for _, n := range got {
		total += n
	}
	var out []string
	for _, e := range pool {
		part := float64(got[e.ID]) / float64(max(total, 1))
		out = append(out, fmt.Sprintf("%s %-10s %4.1f%%", e.ID, strings.Repeat("#", int(part*20+0.5)), part*100))
	}
	sort.Strings(out)
	return strings.Join(out, "  ")
}
