package discover

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tierkit/tierkit/lb"
)

// DNS finds the addresses (A and AAAA) of host; each is an endpoint at port. A nil r means net.DefaultResolver.
func DNS(r *net.Resolver, host string, port int) Source {
	if r == nil {
		r = net.DefaultResolver
	}
	return func(ctx context.Context) ([]lb.Endpoint, error) {
		addrs, err := r.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, fmt.Errorf("discover: %s: %w", host, err)
		}
		es := make([]lb.Endpoint, 0, len(addrs))
		for _, a := range addrs {
			es = append(es, lb.Endpoint{Addr: net.JoinHostPort(a.Unmap().String(), strconv.Itoa(port))})
		}
		return sorted(es), nil
	}
}

// SRV finds the targets of the SRV records of a name such as "_http._tcp.example.com", with their ports, weights
// and priorities (RFC 2782; weight 0 becomes 1). A nil r means net.DefaultResolver.
func SRV(r *net.Resolver, name string) Source {
	if r == nil {
		r = net.DefaultResolver
	}
	return func(ctx context.Context) ([]lb.Endpoint, error) {
		_, srvs, err := r.LookupSRV(ctx, "", "", name)
		if err != nil {
			return nil, fmt.Errorf("discover: %s: %w", name, err)
		}
		es := make([]lb.Endpoint, 0, len(srvs))
		for _, s := range srvs {
			if s.Target == "." {
				continue // "not available here"
			}
			es = append(es, lb.Endpoint{
				Addr:   net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port))),
				Weight: max(float64(s.Weight), 1), Priority: int(s.Priority),
			})
		}
		return sorted(es), nil
	}
}

// File reads endpoints from a file: one a line, "host:port" and optionally "weight=2", "zone=a", "priority=1",
// "id=x", "scheme=https", "max-conns=100"; # begins a comment. A file that is being written anew should be renamed into
// place.
func File(path string) Source {
	return func(context.Context) ([]lb.Endpoint, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("discover: %w", err)
		}
		defer f.Close()
		var es []lb.Endpoint
		sc := bufio.NewScanner(f)
		for n := 1; sc.Scan(); n++ {
			line, _, _ := strings.Cut(sc.Text(), "#")
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			e := lb.Endpoint{Addr: words[0]}
			for _, w := range words[1:] {
				if err := set(&e, w); err != nil {
					return nil, fmt.Errorf("discover: %s:%d: %w", path, n, err)
				}
			}
			if err := e.Validate(); err != nil {
				return nil, fmt.Errorf("discover: %s:%d: %w", path, n, err)
			}
			es = append(es, e)
		}
		if err := sc.Err(); err != nil {
			return nil, fmt.Errorf("discover: %s: %w", path, err)
		}
		return sorted(es), nil
	}
}

// set sets the field of e that a word such as "weight=2" names.
func set(e *lb.Endpoint, word string) (err error) {
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

func sorted(es []lb.Endpoint) []lb.Endpoint {
	slices.SortFunc(es, func(a, b lb.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.ID, b.ID))
	})
	return slices.Compact(es)
}
