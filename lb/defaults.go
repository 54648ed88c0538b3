package lb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/tierkit/tierkit/internal/usercode"
)

func (o Options) withDefaults() (Options, error) {
	orDur := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		} else if *d < 0 {
			*d = 0
		}
	}
	if o.Policy == nil {
		o.Policy = PowerOfTwo()
	}
	if p, ok := o.Policy.(prequal); ok {
		if err := p.o.check(); err != nil {
			return o, err
		}
	}
	if math.IsNaN(o.PanicThreshold) {
		return o, errors.New("lb: Options.PanicThreshold is not a number")
	}
	if o.PanicThreshold == 0 {
		o.PanicThreshold = 0.5
	}
	if o.PanicThreshold > 1 {
		return o, fmt.Errorf("lb: Options.PanicThreshold %v: want at most 1", o.PanicThreshold)
	}
	if o.SlowStart < 0 {
		return o, fmt.Errorf("lb: Options.SlowStart %v: want 0 or more", o.SlowStart)
	}
	if o.MaxConns < 0 {
		return o, fmt.Errorf("lb: Options.MaxConns %d: want 0 or more", o.MaxConns)
	}
	if o.Subset.Size < 0 {
		return o, fmt.Errorf("lb: Options.Subset.Size %d: want 0 or more", o.Subset.Size)
	}
	if o.Subset.Size > 0 && o.Subset.ID == "" {
		return o, fmt.Errorf("lb: Options.Subset.ID: required with Size")
	}
	switch {
	case o.MaxQueue == 0:
		o.MaxQueue = 1024
	case o.MaxQueue < 0:
		o.MaxQueue = 0
	}
	orDur(&o.QueueTimeout, time.Second)
	switch {
	case o.MaxIdle == 0:
		o.MaxIdle = 256
	case o.MaxIdle < 0:
		o.MaxIdle = 0
	}
	out := &o.Outlier
	if out.Consecutive == 0 {
		out.Consecutive = 5
	}
	if out.ErrorRate == 0 {
		out.ErrorRate = 0.5
	}
	if out.MinRequests == 0 {
		out.MinRequests = 20
	}
	if out.MaxShare == 0 {
		out.MaxShare = 0.5
	}
	if out.Consecutive < 0 || !(out.ErrorRate <= 1) || !(out.MaxShare >= 0 && out.MaxShare <= 1) ||
		out.MinRequests < 0 {
		return o, fmt.Errorf("lb: Options.Outlier: Consecutive %d, ErrorRate %v, MaxShare %v, MinRequests %d "+
			"out of range",
			out.Consecutive, out.ErrorRate, out.MaxShare, out.MinRequests)
	}
	orDur(&out.Window, 10*time.Second)
	orDur(&out.Ejection, 5*time.Second)
	orDur(&out.MaxEjection, time.Minute)

	h := o.Health
	if h.Interval < 0 || h.Timeout < 0 || h.Rise < 0 || h.Fall < 0 || h.MinHold < 0 {
		return o, fmt.Errorf("lb: Options.Health: Interval %v, Timeout %v, Rise %d, Fall %d, MinHold %v: "+
			"want 0 or more",
			h.Interval, h.Timeout, h.Rise, h.Fall, h.MinHold)
	}
	r := &o.Retry
	if math.IsNaN(r.Budget) {
		return o, errors.New("lb: Options.Retry.Budget is not a number")
	}
	for _, status := range r.Statuses {
		if status < 200 || status > 599 {
			return o, fmt.Errorf("lb: Options.Retry.Statuses: %d is no status of an answer", status)
		}
	}
	if err := validNets("Options.AllowedNets", o.AllowedNets); err != nil {
		return o, err
	}
	switch {
	case r.Max == 0:
		r.Max = 2
	case r.Max < 0:
		r.Max = 0
	}
	if r.Budget == 0 {
		r.Budget = 0.2
	}
	switch {
	case r.MaxBody == 0:
		r.MaxBody = 64 << 10
	case r.MaxBody < 0:
		r.MaxBody = 0
	}

	if err := o.Hedge.check(); err != nil {
		return o, err
	}
	if o.Adaptive != nil {
		a, err := o.Adaptive.withDefaults()
		if err != nil {
			return o, err
		}
		o.Adaptive = &a
	}

	t := &o.Timeouts
	orDur(&t.Dial, 2*time.Second)
	orDur(&t.Header, 30*time.Second)
	orDur(&t.Idle, 60*time.Second)
	orDur(&t.KeepIdle, 30*time.Second)
	orDur(&t.Expect, time.Second)
	orDur(&t.Tunnel, 10*time.Minute)

	o.Dial = dialer(o.Dial, t.Dial, o.AllowedNets)
	return o, nil
}

func (o ProxyOptions) withDefaults() (ProxyOptions, error) {
	if o.MaxBody < 0 {
		return o, fmt.Errorf("lb: ProxyOptions.MaxBody %d: want 0 or more", o.MaxBody)
	}
	if err := validNets("ProxyOptions.TrustedProxies", o.TrustedProxies); err != nil {
		return o, err
	}
	if o.HeapReserve == 0 {
		o.HeapReserve = defaultReserve
	}
	if o.Error == nil {
		o.Error = writeError
	}
	return o, nil
}

func validNets(field string, nets []netip.Prefix) error {
	for i, p := range nets {
		if !p.IsValid() {
			return fmt.Errorf("lb: %s[%d]: invalid prefix", field, i)
		}
	}
	return nil
}

// idempotent reports whether r may be carried out twice, by Retry.Idempotent.
func (b *Balancer) idempotent(r *http.Request) bool {
	if b.o.Retry.Idempotent != nil {
		return b.o.Retry.Idempotent(r)
	}
	return idempotent(r)
}

func idempotent(r *http.Request) bool {
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "":
		return true
	}
	return len(r.Header["Idempotency-Key"]) > 0 || len(r.Header["X-Idempotency-Key"]) > 0
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer returns the function that opens every connection to a backend: dial, or a net.Dialer, within limit, and only
// to addresses in nets, if there are any.
func dialer(dial dialFunc, limit time.Duration, nets []netip.Prefix) dialFunc {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	} else {
		dial = contained(dial)
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		c, err := dial(ctx, network, addr)
		if err != nil || len(nets) == 0 {
			return c, err
		}
		peer, perr := netip.ParseAddrPort(c.RemoteAddr().String())
		if perr != nil || !within(nets, peer.Addr().Unmap()) {
			c.Close()
			return nil, fmt.Errorf("lb: %s is at %v, outside of AllowedNets", addr, c.RemoteAddr())
		}
		return c, nil
	}
}

// contained calls the user's dial so that it cannot hold a request up: its panic is an error, and when it ignores ctx
// the request goes on without it, and a connection that comes later is closed.
func contained(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conns := make(chan net.Conn, 1)
		left, err := usercode.Within(ctx, func(ctx context.Context) error {
			c, err := dial(ctx, network, addr)
			if err == nil {
				conns <- c
			}
			return err
		})
		if err == nil {
			return <-conns, nil
		}
		go func() {
			<-left
			select {
			case c := <-conns:
				c.Close()
			default:
			}
		}()
		var p *usercode.Panic
		if errors.As(err, &p) || errors.Is(err, usercode.ErrExited) {
			err = fmt.Errorf("lb: Options.Dial: %w", err)
		}
		return nil, err
	}
}
