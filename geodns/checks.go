package geodns

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// Check tells whether something may take traffic: nil for yes. It must end when ctx does. A check is run by one
// goroutine at a time; one that is given to several centers is run by several.
type Check = func(ctx context.Context) error

// HTTPCheckOptions of [CheckHTTP] and [CheckHTTPAddr].
type HTTPCheckOptions struct {
	Status  int         // that means healthy; 0: any from 200 to 399 (redirects are not followed)
	Contain string      // what the first 64 KiB of the body must contain; empty: anything
	TLS     *tls.Config // nil: the system's roots
	Header  http.Header // sent with each request
}

// CheckHTTP asks for a URL on a new connection each time, so that a listener that accepts nobody new is found out.
func CheckHTTP(rawURL string, o HTTPCheckOptions) (Check, error) {
	get, err := httpCheck(rawURL, o)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return get(ctx, netip.Addr{}) }, nil
}

// CheckHTTPAddr is [CheckHTTP] for DC.CheckAddr: it connects to each address, with the port, the Host and the TLS name
// of the URL.
func CheckHTTPAddr(rawURL string, o HTTPCheckOptions) (func(ctx context.Context, addr netip.Addr) error, error) {
	return httpCheck(rawURL, o)
}

func httpCheck(rawURL string, o HTTPCheckOptions) (func(ctx context.Context, addr netip.Addr) error, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("geodns: check of %q: want http(s)://host/path", rawURL)
	}
	type target struct{}
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: o.TLS,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if a, ok := ctx.Value(target{}).(netip.Addr); ok && a.IsValid() {
					_, port, err := net.SplitHostPort(addr)
					if err != nil {
						return nil, err
					}
					addr = net.JoinHostPort(a.String(), port)
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			},
		},
	}
	return func(ctx context.Context, addr netip.Addr) error {
		q, err := http.NewRequestWithContext(context.WithValue(ctx, target{}, addr), http.MethodGet, rawURL, nil)
		if err != nil {
			return err
		}
		for k, v := range o.Header {
			q.Header[k] = v
		}
		res, err := client.Do(q)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if o.Status != 0 && res.StatusCode != o.Status || o.Status == 0 &&
			(res.StatusCode < 200 || res.StatusCode >= 400) {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		if err != nil {
			return err
		}
		if !bytes.Contains(body, []byte(o.Contain)) {
			return fmt.Errorf("the body does not contain %q", o.Contain)
		}
		return nil
	}, nil
}

// CheckTCP is healthy when a connection to host:port succeeds.
func CheckTCP(addr string) Check {
	return func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// CheckTCPAddr is [CheckTCP] for DC.CheckAddr.
func CheckTCPAddr(port uint16) func(ctx context.Context, addr netip.Addr) error {
	return func(ctx context.Context, addr netip.Addr) error {
		return CheckTCP(net.JoinHostPort(addr.String(), strconv.Itoa(int(port))))(ctx)
	}
}

// CaughtUp is healthy while a center's data is at most limit behind: a center whose replicas lag would show its users
// the past. lag is yours: a replica's delay, the age of the last event applied, the length of a queue as time. An error
// of lag counts as behind, for nobody knows. The check fails with [ErrBehind].
func CaughtUp(lag func(ctx context.Context) (time.Duration, error), limit time.Duration) Check {
	return func(ctx context.Context) error {
		d, err := lag(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBehind, err)
		}
		if d > limit {
			return fmt.Errorf("%w by %v, more than %v", ErrBehind, d, limit)
		}
		return nil
	}
}

// AllOf is healthy when all checks are; they run at the same time. Its error joins theirs.
func AllOf(checks ...Check) Check { return Quorum(len(checks), checks...) }

// Quorum is healthy when at least n of the checks are, such as one check by several ways; they run at the same time,
// and all end before it returns.
func Quorum(n int, checks ...Check) Check {
	return func(ctx context.Context) error {
		results := make(chan error, len(checks))
		for _, check := range checks {
			go func() {
				defer func() {
					if p := recover(); p != nil {
						results <- fmt.Errorf("check panics: %v", p)
					}
				}()
				results <- check(ctx)
			}()
		}
		var errs []error
		for range checks {
			if err := <-results; err != nil {
				errs = append(errs, err)
			}
		}
		if len(checks)-len(errs) >= n {
			return nil
		}
		return errors.Join(errs...)
	}
}
