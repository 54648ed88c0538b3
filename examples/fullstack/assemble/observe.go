package assemble

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/site"
	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/metrics/audience"
	"github.com/tierkit/tierkit/metrics/dashboard"
	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/security"
	"github.com/tierkit/tierkit/metrics/slo"
)

// observed is what watches the stack from outside of its tiers: one collector for the logs of all servers, the security
// events, the users of the day, and what the service promises.
type observed struct {
	collector *node
	store     *logs.Store
	token     string
	security  *security.Stream
	users     *audience.Uniques
	shipper   *logs.Shipper // of the stack's own records
}

// startObserving comes before everything that logs.
func (s *Stack) startObserving() (err error) {
	o := &observed{collector: newNode("collector", "admin", ""), token: rand.Text(), users: audience.NewUniques(nil)}
	s.observed = o
	o.store = logs.NewStore(logs.StoreOptions{Records: 20_000, Token: o.token})
	if err := o.collector.serve("127.0.0.1:0", o.store); err != nil {
		return err
	}
	if s.logs, o.shipper, err = s.logHandler("stack", 0); err != nil {
		return err
	}
	s.log = slog.New(s.logs)
	if o.security, err = security.New(s.metrics, security.Options{Logger: s.log}); err != nil {
		return err
	}
	edge := s.tiers["edge"]
	for _, promise := range []slo.Options{
		{Name: "available", Objective: 0.995, Read: edge.Availability()},
		{Name: "fast", Objective: 0.95, Read: edge.Latency(250 * time.Millisecond)},
	} {
		if _, err = slo.New(s.metrics, promise); err != nil {
			return err
		}
	}
	return s.metrics.Register(metrics.Collect("fullstack", func() audience.UniqueStats {
		return o.users.At(time.Now())
	}))
}

// logHandler writes for one server: what it logs goes to the collector, with the share of the uneventful records given.
func (s *Stack) logHandler(server string, sample float64) (*logs.Handler, *logs.Shipper, error) {
	ship, err := logs.NewShipper(logs.ShipperOptions{URL: "http://" + s.collector.addr + "/", Token: s.token})
	if err != nil {
		return nil, nil, err
	}
	return logs.NewHandler(s.o.Log, logs.HandlerOptions{Server: server, Ship: ship, Sample: sample, Keep: 50}),
		ship, nil
}

// closeShipper gives the last records a moment to arrive.
func closeShipper(ship *logs.Shipper) error {
	if ship == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := ship.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) { // the collector is not what the books are about
		return nil
	}
	return err
}

func (o *observed) release() error {
	err := closeShipper(o.shipper)
	o.collector.close()
	return err
}

// tiles are the figures of the business.
func (s *Stack) tiles() []dashboard.Figure {
	views, photos := 0.0, 0.0
	for _, c := range s.centers {
		for _, p := range c.pools {
			if p.topic == site.TopicViews {
				views += float64(p.pool.Stats().Succeeded)
			} else {
				photos += float64(p.pool.Stats().Succeeded)
			}
		}
	}
	return []dashboard.Figure{
		{Name: "Users today", Value: float64(s.users.At(time.Now()).Day)},
		{Name: "Views counted", Value: views},
		{Name: "Photos resized", Value: photos},
		{Name: "Logins failed", Value: float64(s.security.Counts()[security.LoginFailed])},
	}
}
