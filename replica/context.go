package replica

import (
	"context"
	"time"
)

type ctxKey uint8

const (
	ctxRoute ctxKey = iota
	ctxSession
)

// route is what a context asks for. One value holds all overrides so that a statement costs one lookup.
type route struct {
	primary bool
	replica bool
	maxLag  time.Duration
}

func routeOf(ctx context.Context) route {
	r, _ := ctx.Value(ctxRoute).(route)
	return r
}

// Primary makes every statement under the context run on the primary.
func Primary(ctx context.Context) context.Context {
	r := routeOf(ctx)
	r.primary, r.replica = true, false
	return context.WithValue(ctx, ctxRoute, r)
}

// Replica makes reads under the context run on a replica even if the classifier would send them to the primary, and
// never on the primary: with no usable replica they fail with ErrNoReplica. Writes still go to the primary when sent
// through Exec. Use it for what you know better than the lexer, such as a user function declared volatile that only
// reads.
func Replica(ctx context.Context) context.Context {
	r := routeOf(ctx)
	r.primary, r.replica = false, true
	return context.WithValue(ctx, ctxRoute, r)
}

// MaxLag bounds how far behind a replica may be for reads under the context, if that is stricter than Options.MaxLag.
func MaxLag(ctx context.Context, d time.Duration) context.Context {
	r := routeOf(ctx)
	r.maxLag = d
	return context.WithValue(ctx, ctxRoute, r)
}

// WithSession makes reads under the context see the session's own writes, and never go back in time.
func WithSession(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, ctxSession, s)
}

// SessionOf returns the session of the context, or nil.
func SessionOf(ctx context.Context) *Session {
	s, _ := ctx.Value(ctxSession).(*Session)
	return s
}
