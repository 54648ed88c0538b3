package lb

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Discover finds the endpoints of the moment. It must honour ctx.
type Discover func(ctx context.Context) ([]Endpoint, error)

// Watch keeps a balancer's endpoints equal to what find finds, asked at once and then each interval (0: 5 s), until ctx
// ends. Failures and an empty list leave the endpoints as they are, since a broken directory is more likely than a
// deliberately empty pool; failed is told of them and may be nil. It returns ctx's error; run it on a goroutine of your
// own.
func (b *Balancer) Watch(ctx context.Context, interval time.Duration, find Discover, failed func(error)) error {
	if interval <= 0 {
		interval = 5 * time.Second
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last []Endpoint
	for {
		found, err := find(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && len(found) == 0:
			err = errors.New("lb: discovery found no endpoint")
		case err == nil && !slices.Equal(found, last):
			if err = b.Update(found); err == nil {
				last = slices.Clone(found) // find may use its own again
			}
		}
		if errors.Is(err, ErrClosed) {
			return err
		}
		if err != nil && failed != nil {
			failed(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// FromDNS finds the addresses (A and AAAA) of host; each is an endpoint at port. r nil: net.DefaultResolver.
func FromDNS(r *net.Resolver, host string, port int) Discover {
	if r == nil {
		r = net.DefaultResolver
	}
	return func(ctx context.Context) ([]Endpoint, error) {
		addrs, err := r.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, fmt.Errorf("lb: discovery of %s: %w", host, err)
		}
		es := make([]Endpoint, 0, len(addrs))
		for _, a := range addrs {
			es = append(es, Endpoint{Addr: net.JoinHostPort(a.Unmap().String(), strconv.Itoa(port))})
		}
		return sorted(es), nil
	}
}

// FromSRV finds the targets of the SRV records of a name such as "_http._tcp.example.com", with their ports, weights
// and priorities (RFC 2782; weight 0 becomes 1). r nil: net.DefaultResolver.
func FromSRV(r *net.Resolver, name string) Discover {
	if r == nil {
		r = net.DefaultResolver
	}
	return func(ctx context.Context) ([]Endpoint, error) {
		_, srvs, err := r.LookupSRV(ctx, "", "", name)
		if err != nil {
			return nil, fmt.Errorf("lb: discovery of %s: %w", name, err)
		}
		es := make([]Endpoint, 0, len(srvs))
		for _, s := range srvs {
			if s.Target == "." {
				continue // "not available here"
			}
			es = append(es, Endpoint{
				Addr:   net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port))),
				Weight: max(float64(s.Weight), 1), Priority: int(s.Priority),
			})
		}
		return sorted(es), nil
	}
}

// FromFile reads endpoints from a file: one a line, "host:port" and optionally "weight=2", "zone=a", "priority=1",
// "id=x", "scheme=https", "max-conns=100"; # begins a comment. A file that is being written anew should be renamed into
// place.
func FromFile(path string) Discover {
	return func(context.Context) ([]Endpoint, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("lb: discovery: %w", err)
		}
		defer f.Close()
		var es []Endpoint
		sc := bufio.NewScanner(f)
		for n := 1; sc.Scan(); n++ {
			line, _, _ := strings.Cut(sc.Text(), "#")
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			e := Endpoint{Addr: words[0]}
			for _, w := range words[1:] {
				if err := e.set(w); err != nil {
					return nil, fmt.Errorf("lb: discovery: %s:%d: %w", path, n, err)
				}
			}
			if _, err := e.withDefaults(); err != nil {
				return nil, fmt.Errorf("lb: discovery: %s:%d: %w", path, n, err)
			}
			es = append(es, e)
		}
		if err := sc.Err(); err != nil {
			return nil, fmt.Errorf("lb: discovery: %s: %w", path, err)
		}
		return sorted(es), nil
	}
}

func (e *Endpoint) set(word string) (err error) {
	k, v, _ := strings.Cut(word, "=")
	switch k {
	case "id":
		e.ID = v
	case "zone":
		e.Zone = v
	case "scheme":
		e.Scheme = v
	case "weight":
		e.Weight, err = strconv.ParseFloat(v, 64)
	case "priority":
		e.Priority, err = strconv.Atoi(v)
	case "max-conns":
		e.MaxConns, err = strconv.Atoi(v)
	default:
		err = fmt.Errorf("unknown word %q", word)
	}
	return err
}

func sorted(es []Endpoint) []Endpoint {
	slices.SortFunc(es, func(a, b Endpoint) int { return cmp.Or(cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.ID, b.ID)) })
	return slices.Compact(es)
}
