package geodns

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/tierkit/tierkit/internal/clientaddr"
)

// Handler serves each request with the handler that pick returns for its decision; nil means 503.
func (r *Router) Handler(pick func(Decision) http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if h := pick(r.RouteRequest(q)); h != nil {
			h.ServeHTTP(w, q)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "no data center is available", http.StatusServiceUnavailable)
	})
}

// Header tells next which center a request belongs to, in a header of the request: its own proxy or code acts on it.
// What the client sent under that name is dropped; when no center is available there is no such header.
func (r *Router) Header(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		q = q.Clone(q.Context())
		q.Header.Del(name)
		if dc := r.RouteRequest(q).DC; dc != "" {
			q.Header.Set(name, dc)
		}
		next.ServeHTTP(w, q)
	})
}

// RouteRequest decides for the client of an HTTP request, as RouterOptions.TrustedProxies lets it be known.
func (r *Router) RouteRequest(q *http.Request) Decision {
	return r.Route(clientaddr.Of(q, r.o.TrustedProxies))
}

// Redirect sends clients to their center: 307 to its base URL ("https://eu.example.com"), path and query kept. Only the
// URLs in bases are ever redirected to. A request whose center is self, or has no base, goes to next. When self is
// drained, clients are asked to connect anew ("Connection: close"), so that they ask the DNS again.
func (r *Router) Redirect(self string, bases map[string]string, next http.Handler) (http.Handler, error) {
	urls := map[string]*url.URL{}
	for dc, base := range bases {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("geodns: base URL %q of %q: want http(s)://host", base, dc)
		}
		urls[dc] = u
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		d := r.RouteRequest(q)
		base := urls[d.DC]
		if d.DC == self || base == nil {
			next.ServeHTTP(w, q)
			return
		}
		to := url.URL{Scheme: base.Scheme, Host: base.Host, Path: base.Path + q.URL.Path, RawQuery: q.URL.RawQuery}
		if q.URL.RawPath != "" {
			to.RawPath = base.EscapedPath() + q.URL.RawPath
		}
		w.Header().Set("Cache-Control", "no-store") // the next client is elsewhere
		if r.drained(self) {
			w.Header().Set("Connection", "close")
		}
		http.Redirect(w, q, to.String(), http.StatusTemporaryRedirect)
	}), nil
}

func (r *Router) drained(dc string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.centers[dc]
	return c != nil && c.drained
}
