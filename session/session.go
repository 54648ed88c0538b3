package session

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
)

// Options configure [Sessions]. The zero value is a good default for production over https.
type Options struct {
	// Cookie is the cookie's name. Default "__Host-session" ("session" with Insecure).
	Cookie string
	// Insecure is for development over plain http: the cookie is neither Secure nor __Host-, so that anyone on the network path can
	// read or plant it.
	Insecure bool
	// SameSite of the cookie. Default Lax.
	SameSite http.SameSite
	// Domain and Path of the cookie; a __Host- cookie has no Domain and Path "/", which are the defaults.
	Domain, Path string
	// Absolute is the longest life of a session whatever its use. Default 12 h.
	Absolute time.Duration
	// Idle ends a session that was not used for so long. Default 30 min; negative: no idle timeout. Use is recorded at
	// most every tenth of it, so a session may end up to a tenth early.
	Idle time.Duration
	// Grace is how long a regenerated session's old cookie still works, for requests under way. Default 10 s, negative: not at all. A
	// login has no grace.
	Grace time.Duration
	// StoreTimeout bounds each store operation. Default 2 s.
	StoreTimeout time.Duration
	// OnFailure says what a request gets when the store fails. Default FailClosed.
	OnFailure FailurePolicy
	// JSON writes the data as JSON instead of the compact default. Sessions written the other way are still read.
	JSON bool
	// Address tells a request's client address, kept with the session for its owner to see. Default: r.RemoteAddr without the port, which is
	// the load balancer's behind one.
	Address func(*http.Request) string
	// Hooks observe.
	Hooks *Hooks
}

// FailurePolicy says what a session is when its store fails.
type FailurePolicy uint8

const (
	// FailClosed: Get and Update return ErrUnavailable, for the handler to answer with one clean status.
	FailClosed FailurePolicy = iota
	// Anonymous: Get answers as if there were no session; writes return ErrUnavailable.
	Anonymous
)

// Hooks are called as things happen; nil fields cost nothing.
type Hooks struct {
	// Event reports what security monitoring wants to count: "login", "logout", "revoked", "bad-cookie", "swapped-record".
	Event func(ctx context.Context, kind, user string)
	// StoreError reports every failed store operation.
	StoreError func(ctx context.Context, op string, err error)
}

func (o Options) withDefaults() (Options, error) {
	if o.Cookie == "" {
		o.Cookie = "__Host-session"
		if o.Insecure || o.Domain != "" || o.Path != "" && o.Path != "/" {
			o.Cookie = "session"
		}
	}
	if strings.HasPrefix(o.Cookie, "__Host-") && (o.Insecure || o.Domain != "" || o.Path != "" && o.Path != "/") {
		return o, errors.New("session: Options.Cookie begins with __Host-, which excludes Insecure, Domain and Path")
	}
	if err := (&http.Cookie{Name: o.Cookie, Value: "x", Domain: o.Domain, Path: o.Path}).Valid(); err != nil {
		return o, fmt.Errorf("session: Options.Cookie, Domain or Path: %w", err)
	}
	if o.Path == "" {
		o.Path = "/"
	}
	switch {
	case o.SameSite == 0:
		o.SameSite = http.SameSiteLaxMode
	case o.SameSite == http.SameSiteNoneMode && o.Insecure:
		return o, errors.New("session: Options.SameSite is None, which needs a Secure cookie")
	}
	if o.Absolute == 0 {
		o.Absolute = 12 * time.Hour
	}
	if o.Absolute < time.Second {
		return o, fmt.Errorf("session: Options.Absolute is %v, must be at least 1s", o.Absolute)
	}
	if o.Idle == 0 {
		o.Idle = 30 * time.Minute
	}
	if o.Idle > 0 && o.Idle < time.Second {
		return o, fmt.Errorf("session: Options.Idle is %v, must be at least 1s", o.Idle)
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if o.StoreTimeout == 0 {
		o.StoreTimeout = 2 * time.Second
	}
	if o.StoreTimeout < 0 {
		return o, errors.New("session: Options.StoreTimeout is negative")
	}
	if o.OnFailure > Anonymous {
		return o, fmt.Errorf("session: Options.OnFailure is %d, not a policy", o.OnFailure)
	}
	if o.Address == nil {
		o.Address = func(r *http.Request) string {
			if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
				return host
			}
			return r.RemoteAddr
		}
	}
	return o, nil
}

// Sessions hands out the sessions of requests. T is the application's data: any type that encoding/json can round-trip; its fields may be
// added and removed between versions of the program. It is safe for concurrent use.
type Sessions[T any] struct {
	store Store
	index UserIndex // nil when the store has none
	o     Options
	codec codec[T]
	local bool // the store is in memory, and cannot hang
	stats counters
}

type counters struct {
	loads, missing, created, updates, conflicts, destroyed, logins, storeErrors atomic.Int64
}

// New returns sessions kept in store.
func New[T any](store Store, o Options) (*Sessions[T], error) {
	if store == nil {
		return nil, errors.New("session: store is nil")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Sessions[T]{store: store, o: o, codec: newCodec[T](o.JSON)}
	_, s.local = store.(*Memory)
	s.index, _ = store.(UserIndex)
	return s, nil
}

// Middleware gives every request a session, loaded when it is first used.
func (s *Sessions[T]) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hw := httpwrap.Get(w)
		carrier := &carrier[T]{Context: r.Context(), sess: Session[T]{all: s, w: hw, r: r}}
		sess := &carrier.sess
		hw.Before = func(status int) int { sess.seal(); return 0 }
		defer func() {
			sess.end() // a goroutine that outlives the request must not touch the pooled writer
			hw.Finish()
			httpwrap.Put(hw)
		}()
		next.ServeHTTP(hw, r.WithContext(carrier))
	})
}

// carrier is a request's context and session in one piece.
type carrier[T any] struct {
	context.Context
	sess Session[T]
}

func (c *carrier[T]) Value(key any) any {
	if s, ok := key.(*Sessions[T]); ok && s == c.sess.all {
		return &c.sess
	}
	return c.Context.Value(key)
}

// From returns the request's session. Without the middleware its methods return ErrNoSession.
func (s *Sessions[T]) From(ctx context.Context) *Session[T] {
	if sess, ok := ctx.Value(s).(*Session[T]); ok {
		return sess
	}
	return &Session[T]{}
}

// List returns the sessions of a user, newest first.
func (s *Sessions[T]) List(ctx context.Context, user string) ([]Info, error) {
	ls, err := s.listed(ctx, user)
	if err != nil {
		return nil, err
	}
	current := s.From(ctx).currentKey(ctx)
	infos := make([]Info, 0, len(ls))
	for i := range ls {
		r := &ls[i].Record
		r.Key = ls[i].Key
		m, _, err := decodeMeta(r.Data, r)
		if err != nil {
			s.event(ctx, "swapped-record", user)
			continue
		}
		in := info(r, &m)
		in.Current = r.Key == current
		infos = append(infos, in)
	}
	return infos, nil
}

func (s *Sessions[T]) listed(ctx context.Context, user string) ([]Listed, error) {
	if s.index == nil {
		return nil, fmt.Errorf("list: %w", ErrUnsupported)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	ls, err := s.index.ListUser(ctx, user, time.Now())
	if err != nil {
		return nil, s.failed(ctx, "list", err)
	}
	return ls, nil
}

// Revoke ends one session of a user by its Info.ID. ErrNotFound: it has none of that id.
func (s *Sessions[T]) Revoke(ctx context.Context, user, id string) error {
	ls, err := s.listed(ctx, user)
	if err != nil {
		return err
	}
	for _, l := range ls {
		if publicID(l.Key) == id {
			ctx, cancel := s.bounded(ctx)
			defer cancel()
			if err := s.store.Delete(ctx, l.Key); err != nil {
				return s.failed(ctx, "delete", err)
			}
			s.stats.destroyed.Add(1)
			s.event(ctx, "revoked", user)
			return nil
		}
	}
	return fmt.Errorf("session %q of the user: %w", id, ErrNotFound)
}

// RevokeAll ends all sessions of a user, the current one included, and returns how many.
func (s *Sessions[T]) RevokeAll(ctx context.Context, user string) (int, error) {
	if s.index == nil {
		return 0, fmt.Errorf("revoke: %w", ErrUnsupported)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	n, err := s.index.DeleteUser(ctx, user, Key{})
	if err != nil {
		return n, s.failed(ctx, "delete user", err)
	}
	s.stats.destroyed.Add(int64(n))
	s.event(ctx, "revoked", user)
	return n, nil
}

// Stats is cheap and safe at any time.
func (s *Sessions[T]) Stats() Stats {
	c := &s.stats
	return Stats{Loads: c.loads.Load(), Missing: c.missing.Load(), Created: c.created.Load(), Updates: c.updates.Load(),
		Conflicts: c.conflicts.Load(), Destroyed: c.destroyed.Load(), Logins: c.logins.Load(), StoreErrors: c.storeErrors.Load()}
}

func (s *Sessions[T]) event(ctx context.Context, kind, user string) {
	if h := s.o.Hooks; h != nil && h.Event != nil {
		h.Event(ctx, kind, user)
	}
}

// bounded is the context of one store operation.
func (s *Sessions[T]) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.local {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.o.StoreTimeout)
}

// failed turns a store's error into ErrUnavailable.
func (s *Sessions[T]) failed(ctx context.Context, op string, err error) error {
	s.stats.storeErrors.Add(1)
	if h := s.o.Hooks; h != nil && h.StoreError != nil {
		h.StoreError(ctx, op, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, op, err)
}

// token is what the cookie carries: 256 random bits.
type token [32]byte

func newToken() (t token) {
	rand.Read(t[:]) // never fails (crypto/rand)
	return t
}

func (t token) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// parseToken refuses everything that String does not write.
func parseToken(v string) (t token, ok bool) {
	if len(v) != 43 {
		return t, false
	}
	var src [43]byte
	copy(src[:], v)
	n, err := base64.RawURLEncoding.Strict().Decode(t[:], src[:])
	return t, err == nil && n == len(t)
}

// cookieValue finds a cookie without parsing all of them.
func cookieValue(h http.Header, name string) string {
	for _, line := range h["Cookie"] {
		for line != "" {
			var part string
			part, line, _ = strings.Cut(line, ";")
			part = strings.TrimLeft(part, " \t")
			if len(part) > len(name) && part[len(name)] == '=' && part[:len(name)] == name {
				return strings.TrimRight(part[len(name)+1:], " \t")
			}
		}
	}
	return ""
}

// Info describes a session without its data.
type Info struct {
	// ID names the session in a list; it is not the cookie and gives no access.
	ID            string
	User          string
	Created, Seen time.Time
	Expires       time.Time
	// Address and Agent are those of the login.
	Address, Agent string
	// Current is set for the session that asks.
	Current bool
}

// Stats are the counters of a [Sessions].
type Stats struct {
	Loads       int64 `metric:"loads_total,counter,Sessions loaded from the store."`
	Missing     int64 `metric:"missing_total,counter,Cookies without a live session."`
	Created     int64 `metric:"created_total,counter,Sessions created."`
	Updates     int64 `metric:"updates_total,counter,Updates stored."`
	Conflicts   int64 `metric:"conflicts_total,counter,Updates run again because another request was faster."`
	Destroyed   int64 `metric:"destroyed_total,counter,Sessions ended by Destroy or Revoke."`
	Logins      int64 `metric:"logins_total,counter,Sessions bound to a user."`
	StoreErrors int64 `metric:"store_errors_total,counter,Failed store operations."`
}
