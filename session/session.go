package session

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/tierkit/tierkit/internal/httpwrap"
	"github.com/tierkit/tierkit/internal/keyring"
)

// Sessions hands out the sessions of requests. T is the application's data: any type that encoding/json can round-trip;
// its fields may be added and removed between versions of the program. It is safe for concurrent use.
type Sessions[T any] struct {
	store  Store
	index  UserIndex // nil when the store has none
	o      Options
	codec  codec[T]
	local  bool // the store is in memory, and cannot hang
	guard  guard
	recent *recent // nil unless Options.OnFailure is Stale
	ring   atomic.Pointer[keyring.Ring]
	stats  counters
}

type counters struct {
	loads, missing, created, updates, conflicts, destroyed, logins, storeErrors, stale, refused, events atomic.Int64
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
	if o.OnFailure == Stale {
		s.recent = newRecent(o.StaleFor, o.StaleEntries)
	}
	if len(o.EncryptionKeys) > 0 {
		if err := s.SetEncryptionKeys(o.EncryptionKeys...); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Middleware gives every request a session, loaded when it is first used, and refuses cross-origin requests that could
// change something (see Options.CrossOrigin).
func (s *Sessions[T]) Middleware(next http.Handler) http.Handler {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hw := httpwrap.Get(w)
		carrier := &carrier[T]{Context: r.Context(), sess: Session[T]{all: s, w: hw, r: r}}
		sess := &carrier.sess
		hw.Observer = carrier
		panicked := true
		defer func() {
			if panicked {
				sess.seal() // whoever recovers above may still answer
			} else {
				sess.end() // a goroutine that outlives the request must not touch the pooled writer
				hw.Finish()
			}
			httpwrap.Put(hw)
		}()
		next.ServeHTTP(hw, r.WithContext(carrier))
		panicked = false
	})
	if s.o.NoCrossOriginCheck {
		return h
	}
	denied := s.o.CrossOrigin.Handler(h) // with the deny handler that the application may have set
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.o.CrossOrigin.Check(r) != nil {
			s.stats.refused.Add(1)
			s.event(r.Context(), EventCrossOrigin, "")
			denied.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
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

// BeforeHeader and HeaderGone implement httpwrap.HeaderObserver.
func (c *carrier[T]) BeforeHeader() { c.sess.seal() }
func (c *carrier[T]) HeaderGone()   { c.sess.end() }

// From returns the request's session. Without the middleware its methods return ErrNoSession.
func (s *Sessions[T]) From(ctx context.Context) *Session[T] {
	if sess, ok := ctx.Value(s).(*Session[T]); ok {
		return sess
	}
	return &Session[T]{}
}

func (s *Sessions[T]) event(ctx context.Context, kind, user string) {
	s.stats.events.Add(1)
	if h := s.o.Hooks; h != nil && h.Event != nil {
		h.Event(ctx, kind, user)
	}
}

// Stats is cheap and safe at any time.
func (s *Sessions[T]) Stats() Stats {
	c := &s.stats
	return Stats{Loads: c.loads.Load(), Missing: c.missing.Load(), Created: c.created.Load(), Updates: c.updates.Load(),
		Conflicts: c.conflicts.Load(), Destroyed: c.destroyed.Load(), Logins: c.logins.Load(),
		StoreErrors: c.storeErrors.Load(),
		Stale:       c.stale.Load(), Refused: c.refused.Load(), Events: c.events.Load()}
}

// Stats are the counters of a [Sessions].
type Stats struct {
	Loads       int64 `metric:"loads_total,counter,Sessions loaded from the store"`
	Missing     int64 `metric:"missing_total,counter,Cookies without a live session"`
	Created     int64 `metric:"created_total,counter,Sessions created"`
	Updates     int64 `metric:"updates_total,counter,Updates stored"`
	Conflicts   int64 `metric:"conflicts_total,counter,Updates run again because another request was faster"`
	Destroyed   int64 `metric:"destroyed_total,counter,Sessions ended by Destroy or Revoke"`
	Logins      int64 `metric:"logins_total,counter,Sessions bound to a user"`
	StoreErrors int64 `metric:"store_errors_total,counter,Failed store operations"`
	Stale       int64 `metric:"stale_total,counter,Sessions answered from this server's memory because the store failed"`
	Refused     int64 `metric:"refused_total,counter,Requests refused as cross-origin or for a missing or wrong form token"`
	Events      int64 `metric:"events_total,counter,Security events told to the hook"`
}
