package session

import (
	"context"
	"net/http"
	"time"
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
	// JSON encodes the data as JSON instead of the compact default.
	JSON bool
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

// Sessions hands out the sessions of requests. T is the application's data: any type that encoding/json can round-trip. It is safe for concurrent use.
type Sessions[T any] struct {
}

// New returns sessions kept in store.
func New[T any](store Store, o Options) (*Sessions[T], error) { return &Sessions[T]{}, nil }

// Middleware gives every request a session, loaded when it is first used.
func (s *Sessions[T]) Middleware(next http.Handler) http.Handler { return next }

// From returns the request's session. Without the middleware its methods return ErrNoSession.
func (s *Sessions[T]) From(ctx context.Context) *Session[T] { return &Session[T]{} }

// List returns the sessions of a user, newest first.
func (s *Sessions[T]) List(ctx context.Context, user string) ([]Info, error) { return nil, nil }

// Revoke ends one session of a user by its Info.ID; RevokeAll ends all of them and returns how many.
func (s *Sessions[T]) Revoke(ctx context.Context, user, id string) error { return nil }

// RevokeAll ends all sessions of a user and returns how many.
func (s *Sessions[T]) RevokeAll(ctx context.Context, user string) (int, error) { return 0, nil }

// Stats is cheap and safe at any time.
func (s *Sessions[T]) Stats() Stats { return Stats{} }

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

// Session is one request's view of its session. Its methods may be called from several goroutines of the request.
type Session[T any] struct {
}

// Get returns a copy of the data, the zero T when there is no session. The first call loads it. Errors: ErrUnavailable, ErrNoSession.
func (s *Session[T]) Get(ctx context.Context) (T, error) { var z T; return z, nil }

// Exists reports whether the request has a live session.
func (s *Session[T]) Exists(ctx context.Context) (bool, error) { return false, nil }

// User is the account given to Login, "" without.
func (s *Session[T]) User(ctx context.Context) (string, error) { return "", nil }

// Update changes the data and stores it before it returns; the closure is run again on the newest data when another request was
// faster, so it must do nothing but change its argument. Without a session one is created and its cookie set. An error of the closure changes
// nothing and is returned. ErrNotFound: the session has ended while this request was under way, and stays ended.
func (s *Session[T]) Update(ctx context.Context, change func(*T) error) error { return nil }

// Login binds the session to a user under a new id, without grace for the old one (against session fixation), and applies change to its
// data (nil: none). Do the same through Regenerate when privileges change.
func (s *Session[T]) Login(ctx context.Context, user string, change func(*T) error) error { return nil }

// Regenerate gives the session a new id; the old one works for Options.Grace.
func (s *Session[T]) Regenerate(ctx context.Context) error { return nil }

// Destroy ends the session and removes the cookie. Without one it does nothing.
func (s *Session[T]) Destroy(ctx context.Context) error { return nil }

// Flash stores a message for the next request that asks; Flashes returns the stored ones and removes them.
func (s *Session[T]) Flash(ctx context.Context, message string) error { return nil }

// Flashes returns the messages stored by Flash and removes them.
func (s *Session[T]) Flashes(ctx context.Context) ([]string, error) { return nil, nil }

// Remember makes the session last for d without idle timeout, and its cookie survive the browser's end.
func (s *Session[T]) Remember(ctx context.Context, d time.Duration) error { return nil }

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
