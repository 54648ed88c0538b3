// Package site is the web application of the full-stack example: pages that are viewed and liked, posts, photos, users
// who register and log in. It is written as a service would be: against the packages of tierkit, unaware of how many
// servers run it and of what fails around it.
package site

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cdn"
	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/token"
	"github.com/tierkit/tierkit/shard"
)

// User is what a session keeps.
type User struct{ Name string }

// Entry is a cached row: a page or a post.
type Entry struct {
	Size  int64  `json:"s,omitempty"`
	Likes int64  `json:"l,omitempty"`
	Text  string `json:"t,omitempty"`
	Gone  bool   `json:"g,omitempty"`
}

// Config is what one web server is made of.
type Config struct {
	Catalog  accesslog.Catalog
	Shards   *shard.Cluster
	Sessions *session.Sessions[User]
	Tokens   *token.Authority
	Refresh  *token.Refresher
	Cache    *cache.Tiered[string, Entry]
	Queue    *queue.Queue
	Edges    cdn.Purger
	Log      *slog.Logger
	Users    *metrics.Uniques // of the day
	// Fresh lets a user's reads see the user's own writes, through whichever server: a signed position travels in a
	// cookie.
	Fresh func(http.Handler) http.Handler
	// Observe wraps the mux itself, where the request's pattern is known.
	Observe func(http.Handler) http.Handler
	// KeepCacheOnDelete is a defect for the tests of the books: a deleted post stays cached.
	KeepCacheOnDelete bool
}

// Site is one web server's handler.
type Site struct {
	Config
	mux       *http.ServeMux
	links     []string
	published atomic.Int64
}

// Published is how many messages this server has put into the queue.
func (s *Site) Published() int64 { return s.published.Load() }

// Topics of the queue.
const (
	TopicViews  = "views"
	TopicPhotos = "photos"
)

// New returns a web server. Routes of the application start with /-/, everything else is the catalog's.
func New(c Config) *Site {
	s := &Site{Config: c, mux: http.NewServeMux(), links: links(c.Catalog)}
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				s.fail(w, r, err)
			}
		})
	}
	handle("POST /-/beacon", s.beacon)
	handle("POST /-/register", s.register)
	handle("POST /-/login", s.login)
	handle("POST /-/logout", s.logout)
	handle("GET /-/me", s.me)
	handle("POST /-/likes", s.asUser(s.like))
	handle("POST /-/posts", s.asUser(s.post))
	handle("DELETE /-/posts/{id}", s.asUser(s.deletePost))
	handle("GET /-/posts/{id}", s.readPost)
	handle("POST /-/photos", s.asUser(s.upload))
	handle("GET /-/photos/{id}/{version}", s.photo)
	handle("POST /-/api/token", s.apiToken)
	handle("POST /-/api/refresh", s.apiRefresh)
	return s
}

// Handler returns the whole chain of a web server.
func (s *Site) Handler() http.Handler {
	return s.Sessions.Middleware(s.Fresh(http.NewCrossOriginProtection().Handler(
		s.Observe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/-/") {
				s.mux.ServeHTTP(w, r)
				return
			}
			// A path of the log is taken as it is: the mux would redirect "/a//b" to a cleaner one that is not in the
			// catalog.
			r.Pattern = "/"
			if err := s.page(w, r); err != nil {
				s.fail(w, r, err)
			}
		})))))
}

// statusError is an answer that is the client's doing.
type statusError struct {
	status int
	text   string
}

func (e statusError) Error() string { return e.text }

func bad(text string) error { return statusError{http.StatusBadRequest, text} }

// fail turns an error into exactly one clean answer. What may have happened is 503 with Retry-After: the client repeats
// it under the same idempotency key.
func (s *Site) fail(w http.ResponseWriter, r *http.Request, err error) {
	var se statusError
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case errors.As(err, &se):
		http.Error(w, se.text, se.status)
	case r.Context().Err() != nil: // nobody is there to answer
		http.Error(w, "client has gone", http.StatusServiceUnavailable)
	default:
		s.Log.WarnContext(r.Context(), "unavailable", "path", r.URL.Path, "err", err.Error())
		w.Header().Set("Retry-After", "1")
		http.Error(w, "try again", http.StatusServiceUnavailable)
	}
}

// asUser lets only users in: by session cookie, or by bearer token on the same route for the mobile clients.
func (s *Site) asUser(h func(w http.ResponseWriter, r *http.Request, user string) error) func(http.ResponseWriter,
	*http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		user, err := s.user(r)
		if err != nil {
			return err
		}
		if user == "" {
			return statusError{http.StatusUnauthorized, "log in first"}
		}
		return h(w, r, user)
	}
}

func (s *Site) user(r *http.Request) (string, error) {
	name := ""
	if t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		c, err := s.Tokens.Verify(t)
		if err != nil {
			return "", statusError{http.StatusUnauthorized, "bad token"}
		}
		name = c.Subject
	} else {
		var err error
		if name, err = s.Sessions.From(r.Context()).User(r.Context()); err != nil {
			return "", err
		}
	}
	if name != "" {
		s.Users.Add(name, time.Now())
		metrics.SetUser(r.Context(), name)
	}
	return name, nil
}

// key returns the client's idempotency key, which names the write for ever.
func key(r *http.Request) (string, error) {
	k := r.Header.Get("Idempotency-Key")
	if k == "" || len(k) > 64 || strings.Trim(k,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return "", bad("Idempotency-Key must be 1 to 64 characters of [A-Za-z0-9_-]")
	}
	return k, nil
}

// write runs f once for the key id, whatever happens between here and the client: the second time finds the record of
// the first. by places the transaction.
func (s *Site) write(ctx context.Context, by shard.Key, id, kind string,
	f func(ctx context.Context, tx *shard.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	return s.Shards.Tx(ctx, by, nil, func(tx *shard.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO writes (slot, id, kind) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING`, int(tx.Slot()), id, kind)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return f(ctx, tx)
	})
}
