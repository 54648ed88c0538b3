// Package site is the web application of the full-stack example: a small publication whose articles are tierkit's
// guide, with views, likes, comments, photos and users who register and log in. It is written as a service would be:
// against the packages of tierkit, unaware of how many servers run it and of what fails around it.
//
// Read first: site.go (what is served where), read.go (pages), comments.go (a write), workers.go (the slow work).
package site

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cdn"
	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/metrics/audience"
	"github.com/tierkit/tierkit/metrics/trace"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/session"
	"github.com/tierkit/tierkit/session/token"
	"github.com/tierkit/tierkit/shard"
)

// User is what a session keeps.
type User struct{ Name string }

// Entry is what the two cache tiers keep: a logged page, a post, or the comments on a chapter.
type Entry struct {
	Size     int64     `json:"s,omitempty"`
	Likes    int64     `json:"l,omitempty"`
	Text     string    `json:"t,omitempty"`
	Gone     bool      `json:"g,omitempty"`
	Comments []Comment `json:"c,omitempty"`
}

// Config is what one web server is made of.
type Config struct {
	Catalog  accesslog.Catalog // paths of a log that is replayed; they go before the site's own
	Room     func() string     // address of the control room, for the navigation; nil: none
	Shards   *shard.Cluster
	Sessions *session.Sessions[User]
	Tokens   *token.Authority
	Refresh  *token.Refresher
	Cache    *cache.Tiered[string, Entry]
	Queue    *queue.Queue
	Edges    cdn.Purger
	Log      *slog.Logger
	Users    *audience.Uniques // of the day
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
	chapters  []*Chapter
	byPath    map[string]*Chapter
	pages     map[string]*template.Template
	lists     *cache.Cache[string, lists]
	links     []string
	published atomic.Int64
}

// Close ends what the server runs in the background.
func (s *Site) Close() error { return s.lists.Close() }

// Published is how many messages this server has put into the queue.
func (s *Site) Published() int64 { return s.published.Load() }

// Topics of the queue.
const (
	TopicViews  = "views"
	TopicPhotos = "photos"
)

// New returns a web server.
func New(c Config) (*Site, error) {
	s := &Site{Config: c, mux: http.NewServeMux(), byPath: map[string]*Chapter{}, links: links(c.Catalog)}
	var err error
	if s.chapters, err = chapters(); err != nil {
		return nil, err
	}
	for _, ch := range s.chapters {
		s.byPath[ch.Path] = ch
	}
	if s.pages, err = parsePages(); err != nil {
		return nil, err
	}
	if s.lists, err = newLists(); err != nil {
		return nil, err
	}
	s.routes()
	return s, nil
}

// routes is all that the site serves. What lies under /-/ is for programs: the pages' scripts, apps and the player.
func (s *Site) routes() {
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				s.fail(w, r, err)
			}
		})
	}
	handle("/", func(http.ResponseWriter, *http.Request) error {
		return statusError{http.StatusNotFound, "There is no such page"}
	})
	handle("GET /{$}", s.front)
	handle("GET /read/{slug}", s.chapter)
	handle("POST /read/{slug}/like", s.asUser(s.likeChapter))
	handle("POST /read/{slug}/comments", s.asUser(s.comment))
	handle("GET /search", s.search)
	handle("GET /photos", s.gallery)
	handle("GET /people/{name}", s.person)
	handle("GET /art/{name}", s.serveArt)
	handle("GET /static/{name}", s.asset)

	handle("GET /register", s.form("register", "Register"))
	handle("POST /register", s.registerForm)
	handle("GET /login", s.form("login", "Log in"))
	handle("POST /login", s.loginForm)
	handle("POST /logout", s.logoutForm)
	handle("GET /account", s.asUser(s.account))
	handle("POST /logout/others", s.asUser(s.logoutOthers))
	handle("GET /upload", s.form("upload", "Upload"))
	handle("POST /upload", s.asUser(s.uploadForm))

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
}

// Handler returns the whole chain of a web server.
func (s *Site) Handler() http.Handler {
	return s.Sessions.Middleware(s.Fresh(http.NewCrossOriginProtection().Handler(
		s.Observe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(s.Catalog) == 0 || strings.HasPrefix(r.URL.Path, "/-/") {
				s.mux.ServeHTTP(w, r)
				return
			}
			// A path of the log is taken as it is: the mux would redirect "/a//b" to a cleaner one that is not in the
			// catalog.
			if _, logged := s.Catalog[r.URL.EscapedPath()]; !logged && s.serves(r) {
				s.mux.ServeHTTP(w, r)
				return
			}
			r.Pattern = "/"
			if err := s.logged(w, r); err != nil {
				s.fail(w, r, err)
			}
		})))))
}

// serves reports whether the site itself has something at a path.
func (s *Site) serves(r *http.Request) bool {
	_, pattern := s.mux.Handler(r)
	return pattern != "/"
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
	case errors.As(err, &se) && se.status == http.StatusUnauthorized && wantsHTML(r):
		http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.Path), http.StatusSeeOther)
	case errors.As(err, &se) && wantsHTML(r):
		p := page{Title: se.text}
		if err := s.show(w, r, "form", se.status, p); err != nil {
			http.Error(w, se.text, se.status)
		}
	case errors.As(err, &se) && strings.Contains(r.Header.Get("Accept"), "application/json"):
		_ = answer(w, se.status, map[string]string{"error": se.text})
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

// wantsHTML reports whether a person with a browser asks.
func wantsHTML(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

// done ends a write: a browser goes on to a page, a program gets the status and what was made.
func done(w http.ResponseWriter, r *http.Request, status int, location string, made any) error {
	switch {
	case wantsHTML(r):
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, r, location, http.StatusSeeOther)
	case made != nil:
		return answer(w, status, made)
	default:
		w.WriteHeader(status)
	}
	return nil
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
		trace.SetUser(r.Context(), name)
	}
	return name, nil
}

// key returns the client's idempotency key, which names the write for ever. Programs send it as a header, forms as a
// field.
func key(r *http.Request) (string, error) {
	k := r.Header.Get("Idempotency-Key")
	if k == "" {
		k = r.FormValue("key")
	}
	if k == "" || len(k) > 64 || strings.Trim(k,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return "", bad("Idempotency-Key must be 1 to 64 characters of [A-Za-z0-9_-]")
	}
	return k, nil
}

// keyOr is key for forms on pages that are the same for everybody and so cannot carry one: what is written names the
// write then, and the same form sent twice writes once.
func keyOr(r *http.Request, what ...string) (string, error) {
	if r.Header.Get("Idempotency-Key") != "" || r.FormValue("key") != "" {
		return key(r)
	}
	h := sha256.New()
	for _, w := range what {
		fmt.Fprintf(h, "%d:%s", len(w), w)
	}
	return hex.EncodeToString(h.Sum(nil)[:24]), nil
}

// write runs f once for the key id, whatever happens between here and the client: the second time finds the record of
// the first. by places the transaction.
func (s *Site) write(ctx context.Context, by shard.Key, id, kind string,
	f func(ctx context.Context, tx *shard.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	return s.Shards.Tx(ctx, by, nil, func(tx *shard.Tx) error {
		res, err := tx.ExecContext(ctx, `
			INSERT INTO writes (slot, id, kind) VALUES (?, ?, ?)
			ON CONFLICT (id) DO NOTHING`, int(tx.Slot()), id, kind)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return f(ctx, tx)
	})
}
