// Package xray writes the way of a response into its Server-Timing header: which edge, balancer, web server and
// database nodes it came through, and how long each took. The site's pages show it at their foot.
//
// Each tier adds its own part. What an edge has stored carries the parts of the tiers behind it; on a hit the edge
// takes them away, because these tiers were not asked this time.
package xray

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
)

const header = "Server-Timing"

// Names of the tiers' parts.
const (
	Edge     = "edge"
	Balancer = "balancer"
	Web      = "web"
	Database = "database"
)

// Tier lets a node write its part. what says more than its name, from the answer's header and the request's context;
// nil says nothing.
func Tier(tier, node string, what func(context.Context, http.Header) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ctx := r.Context()
		x := httpwrap.Get(w)
		defer httpwrap.Put(x)
		x.Before = func(int) int {
			h, desc := w.Header(), node
			if what != nil {
				if more := what(ctx, h); more != "" {
					desc += ": " + more
				}
			}
			h.Add(header, part(tier, desc, time.Since(start)))
			return 0
		}
		next.ServeHTTP(x, r)
		x.Finish()
	})
}

// part is one metric of the header (Server Timing, W3C).
func part(tier, desc string, took time.Duration) string {
	return fmt.Sprintf("%s;dur=%.2f;desc=%q", tier, float64(took.Microseconds())/1000, desc)
}

// Outcome is what an edge says: hit or miss, and how old the answer is. On a hit it removes the parts of the tiers that
// the stored answer came from. A collapsed request shares an answer that others asked for, so it keeps them.
func Outcome(_ context.Context, h http.Header) string {
	_, status, _ := strings.Cut(h.Get("Cache-Status"), "; ")
	if first, _, _ := strings.Cut(status, ";"); first != "hit" {
		return "miss"
	}
	h.Del(header)
	if age := h.Get("Age"); age != "" {
		return "hit, " + age + " s old"
	}
	return "hit"
}

// asked collects the database nodes that one request reached.
type asked struct {
	mu    sync.Mutex
	nodes []string
}

type askedKey struct{}

// Collect returns a context in which Asked notes database nodes, for Nodes to list.
func Collect(ctx context.Context) context.Context {
	return context.WithValue(ctx, askedKey{}, &asked{})
}

// Asked notes that a request reached a database node; it is called by a hook of package replica.
func Asked(ctx context.Context, node, role string) {
	a, _ := ctx.Value(askedKey{}).(*asked)
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if name := node + " (" + role + ")"; !slices.Contains(a.nodes, name) {
		a.nodes = append(a.nodes, name)
	}
}

// Databases lists the database nodes that the request of ctx has reached so far.
func Databases(ctx context.Context) string {
	a, _ := ctx.Value(askedKey{}).(*asked)
	if a == nil {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.nodes, ", ")
}

// WebTier is Tier for a web server, with the database nodes that it asked as a part of their own.
func WebTier(node string, next http.Handler) http.Handler {
	inner := Tier(Web, node, func(ctx context.Context, h http.Header) string {
		if nodes := Databases(ctx); nodes != "" {
			h.Add(header, fmt.Sprintf("%s;desc=%q", Database, nodes))
		}
		return ""
	}, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r.WithContext(Collect(r.Context())))
	})
}
