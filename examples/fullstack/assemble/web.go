package assemble

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tierkit/tierkit/autoscale"
	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/rediscache"
	"github.com/tierkit/tierkit/examples/fullstack/site"
	"github.com/tierkit/tierkit/examples/fullstack/xray"
	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/trace"
	"github.com/tierkit/tierkit/replica"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/redisstore"
	"github.com/tierkit/tierkit/session/token"
)

const minWebs = 2

// web is one web server: its own first cache tier over the shared second one, sessions and tokens in shared stores.
type web struct {
	*node
	ship   *logs.Shipper
	l1     *cache.Cache[string, site.Entry]
	remote *rediscache.Remote
	tiered *cache.Tiered[string, site.Entry]
	site   *site.Site
}

// newWeb assembles a web server; it is not in any balancer yet.
func (c *center) newWeb(name string) (w *web, err error) {
	w = &web{node: newNode(name, "web", c.name)}
	defer func() {
		if err != nil {
			w.release()
		}
	}()
	var records *logs.Handler
	if records, w.ship, err = c.s.logHandler(name, 0.2); err != nil {
		return nil, err
	}
	log := slog.New(records)
	if w.l1, err = cache.New(cache.Options[string, site.Entry]{MaxEntries: 20_000, TTL: 30 * time.Second, Jitter: 0.1,
		StaleIfError: time.Minute}); err != nil {
		return nil, err
	}
	if w.remote, err = rediscache.New(c.s.redis.Cache,
		rediscache.Options{Timeout: 300 * time.Millisecond, Confirm: 500 * time.Millisecond}); err != nil {
		return nil, err
	}
	if w.tiered, err = cache.NewTiered(w.l1, w.remote,
		cache.TieredOptions[string, site.Entry]{TTL: 5 * time.Minute, WaitFor: 300 * time.Millisecond}); err != nil {
		return nil, err
	}
	store, err := redisstore.New(c.s.redis.Sessions, redisstore.Options{})
	if err != nil {
		return nil, err
	}
	// plain http on loopback
	sessions, err := session.New[site.User](store,
		session.Options{Insecure: true, Hooks: &session.Hooks{Event: c.s.security.Report}})
	if err != nil {
		return nil, err
	}
	families, err := redisstore.NewFamilies(c.s.redis.Sessions, redisstore.Options{})
	if err != nil {
		return nil, err
	}
	refresher, err := token.NewRefresher(c.s.tokens, families, token.RefreshOptions{})
	if err != nil {
		return nil, err
	}
	w.site, err = site.New(site.Config{
		Catalog: c.s.o.Catalog, Shards: c.s.data.clusters[c.name], Sessions: sessions, Tokens: c.s.tokens,
		Refresh: refresher,
		Cache:   w.tiered, Queue: c.s.queue, Edges: c.s.purger, Log: log, Users: c.s.users,
		KeepCacheOnDelete: c.s.o.Mutant == ServeAfterDelete,
		Fresh:             c.s.fresh.Middleware(replica.CookieOptions{Insecure: true}), Observe: c.s.tiers["web"].Wrap,
		Room: c.s.room,
	})
	if err != nil {
		return nil, err
	}
	app := xray.WebTier(name, trace.AccessLog(log, w.site.Handler()))
	return w, w.serve("127.0.0.1:0", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/-/healthz" {
			rw.WriteHeader(http.StatusOK)
			return
		}
		ctx, cancel := w.gate.Context(r.Context()) // a dead server goes on with nothing
		defer cancel()
		app.ServeHTTP(rw, r.WithContext(ctx))
	}))
}

func (w *web) release() {
	w.close()
	if w.site != nil {
		w.site.Close()
	}
	_ = closeShipper(w.ship)
	if w.tiered != nil {
		w.tiered.Close()
	}
	if w.remote != nil {
		w.remote.Close()
	}
	if w.l1 != nil {
		w.l1.Close()
	}
}

// addWeb starts a web server and puts it behind the balancers.
func (c *center) addWeb() error {
	c.mu.Lock()
	c.made++
	name := fmt.Sprintf("%s-web%d", c.name, c.made)
	c.mu.Unlock()
	w, err := c.newWeb(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.webs = append(c.webs, w)
	c.mu.Unlock()
	return c.update()
}

// removeWeb takes the newest web server out of the balancers, lets its requests end, and stops it.
func (c *center) removeWeb(ctx context.Context) error {
	c.mu.Lock()
	w := c.webs[len(c.webs)-1]
	c.webs = c.webs[:len(c.webs)-1]
	c.mu.Unlock()
	err := c.update()
	c.s.wg.Go(func() {
		drain, cancel := context.WithTimeout(c.s.ctx, 5*time.Second)
		defer cancel()
		_ = backoff.Sleep(drain, 200*time.Millisecond) // requests that were picked before the update
		_ = w.shutdown(drain)
		w.release()
	})
	return err
}

func (c *center) setWebs(ctx context.Context, n int) error {
	for {
		c.mu.Lock()
		have, down := len(c.webs), c.down
		c.mu.Unlock()
		var err error
		switch {
		case have == n || down:
			return nil
		case have < n:
			err = c.addWeb()
		default:
			err = c.removeWeb(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// startScaling sizes the web tier by requests per second: a server should carry webTarget.
func (c *center) startScaling() error {
	const webTarget = 150.0
	var last uint64
	var at time.Time
	var err error
	c.scale, err = autoscale.New(autoscale.Funcs{
		Get: func(context.Context) (int, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.down {
				return 0, errors.New("the center is down")
			}
			return len(c.webs), nil
		},
		Set: c.setWebs,
	}, autoscale.Policy{Min: minWebs, Max: c.s.o.Webs,
		Metrics: []autoscale.Metric{{Name: "requests", Target: webTarget}},
		Up:      autoscale.Direction{Rates: []autoscale.Rate{{Count: 1, Period: time.Second}}},
		Down:    autoscale.Direction{Stabilize: 5 * time.Second}},
		func(context.Context) ([]autoscale.Sample, error) {
			var n uint64
			for _, b := range c.lbs {
				n += b.requests.Load()
			}
			since := at
			rate := float64(n-last) / time.Since(since).Seconds()
			last, at = n, time.Now()
			if since.IsZero() { // a rate needs two looks
				return nil, nil
			}
			return []autoscale.Sample{{Metric: "requests", Value: rate}}, nil
		}, autoscale.Options{Interval: time.Second, OnDecision: c.scaled("web servers")})
	if err != nil {
		return err
	}
	c.s.wg.Go(func() { c.scale.Run(c.s.ctx) })
	return nil
}

func (c *center) scaled(what string) func(autoscale.Decision, error) {
	return func(d autoscale.Decision, err error) {
		if err == nil && d.To != d.From {
			c.s.Event("scale", fmt.Sprintf("%s %s: %d -> %d (%s)", c.name, what, d.From, d.To, d.Reason))
			c.s.moves.Add(1)
		}
	}
}

// loadKeys keeps the tokens' signing key in the directory, so that tokens outlive a restart.
func loadKeys(dir string, event func(ctx context.Context, kind, user string)) (*token.Authority, error) {
	name := filepath.Join(dir, "token.key")
	secret, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		secret = make([]byte, 32)
		rand.Read(secret)
		err = os.WriteFile(name, secret, 0o600)
	}
	if err != nil {
		return nil, err
	}
	return token.New([]token.Key{{ID: "k1", Secret: secret}},
		token.Options{Issuer: "tierkit.example", TTL: 10 * time.Minute, Event: event})
}
