package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Options configure [Sessions]. The zero value is a good default for production over https.
type Options struct {
	// Cookie is the cookie's name. Default "__Host-session" ("session" with Insecure).
	Cookie string
	// Insecure is for development over plain http: the cookie is neither Secure nor __Host-, so that anyone on the
	// network path can read or plant it.
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
	// Grace is how long a regenerated session's old cookie still works, for requests under way. Default 10 s, negative:
	// not at all. A login has no grace.
	Grace time.Duration
	// StoreTimeout bounds each store operation. Default 2 s.
	StoreTimeout time.Duration
	// OnFailure says what a request gets when the store fails. Default FailClosed.
	OnFailure FailurePolicy
	// StaleFor is, with OnFailure Stale, how old a session from this server's memory may be. Default 1 min.
	StaleFor time.Duration
	// StaleEntries is, with OnFailure Stale, how many sessions this server remembers at least. Default 10000.
	StaleEntries int
	// EncryptionKeys encrypt the data at rest (AES-256-GCM), bound to the session's id. The first encrypts, all
	// decrypt. To rotate, give all servers the new key in the second place, then in the first, and take the old one
	// away when the longest session has ended. Default: no encryption.
	EncryptionKeys []EncryptionKey
	// ReadPlain accepts records that were written before there were EncryptionKeys; without it they are refused, so
	// that nobody who can write to the store can make a session up.
	ReadPlain bool
	// CrossOrigin tells requests that a browser made on another site's behalf from the site's own; they get 403 when
	// their method is not a safe one. Default: a new http.CrossOriginProtection, which trusts no other origin. It lets
	// requests pass that carry neither Sec-Fetch-Site nor Origin; forms of old browsers need [Sessions.RequireCSRF].
	CrossOrigin *http.CrossOriginProtection
	// NoCrossOriginCheck switches that off.
	NoCrossOriginCheck bool
	// JSON writes the data as JSON instead of the compact default. Sessions written the other way are still read.
	JSON bool
	// Address tells a request's client address, kept with the session for its owner to see. Default: r.RemoteAddr
	// without the port, which is the load balancer's behind one.
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
	// Stale: Get answers with what this server last saw of the session, at most Options.StaleFor ago; sessions that it
	// does not know, and writes, get ErrUnavailable. A session revoked through another server meanwhile still counts
	// for so long: see [Session.Stale].
	Stale
)

// Kinds of security events. Package session/token reports through a function of the same form.
const (
	EventLogin       = "login"
	EventLogout      = "logout"
	EventLoginFailed = "login-failed" // reported by the application, see LoginFailed
	EventRevoked     = "revoked"      // one or all sessions of a user were ended
	// a well-formed cookie without a session: it expired, was revoked, or is invented
	EventUnknownSession = "unknown-session"
	EventBadCookie      = "bad-cookie" // a cookie that this package did not make
	// the store holds data that belongs to another session, or that no key sealed
	EventSwappedRecord = "swapped-record"
	EventBadRecord     = "bad-record"   // the store holds data that does not parse
	EventCrossOrigin   = "cross-origin" // a request refused as cross-origin
	EventCSRF          = "csrf"         // a request refused for its form token
)

// Hooks are called as things happen; nil fields cost nothing.
type Hooks struct {
	// Event reports what security monitoring wants to count and alert on. kind is one of the Event constants.
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
	if o.OnFailure > Stale {
		return o, fmt.Errorf("session: Options.OnFailure is %d, not a policy", o.OnFailure)
	}
	if o.OnFailure != Stale && (o.StaleFor != 0 || o.StaleEntries != 0) {
		return o, errors.New("session: Options.StaleFor and StaleEntries need OnFailure: Stale")
	}
	if o.StaleFor == 0 {
		o.StaleFor = time.Minute
	}
	if o.StaleFor < 0 {
		return o, errors.New("session: Options.StaleFor is negative")
	}
	if o.StaleEntries == 0 {
		o.StaleEntries = 10_000
	}
	if o.StaleEntries < 0 {
		return o, errors.New("session: Options.StaleEntries is negative")
	}
	if o.ReadPlain && len(o.EncryptionKeys) == 0 {
		return o, errors.New("session: Options.ReadPlain needs EncryptionKeys")
	}
	if o.CrossOrigin != nil && o.NoCrossOriginCheck {
		return o, errors.New("session: Options.CrossOrigin and NoCrossOriginCheck exclude each other")
	}
	if o.CrossOrigin == nil {
		o.CrossOrigin = http.NewCrossOriginProtection()
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
