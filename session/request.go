package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
)

// Session is one request's view of its session. Its methods may be called from several goroutines of the request, and
// not after its end.
type Session[T any] struct {
	all *Sessions[T]

	mu     sync.Mutex // guards what follows, and the order of this request's store operations
	w      *httpwrap.Writer
	r      *http.Request
	sealed bool // the header is on its way, or the request has ended
	state  state
	token  token
	asked  Key // SHA-256 of the token
	rec    Record
	frame  frame
	stale  bool  // rec is from this server's memory
	err    error // of a failed load
	vary   [1]string
}

// state of a session within its request.
//
//	fresh --first use--> none (no cookie, or no record) | live | broken (store failed)
//	none --Update, Login--> live
//	live --Destroy, or ended by another request--> gone
type state uint8

const (
	fresh state = iota
	none
	live
	gone
	broken
)

// Get returns the data, the zero T when there is no session; what it shares with other copies is nothing. The first
// call loads it. Errors: ErrUnavailable, ErrNoSession.
func (s *Session[T]) Get(ctx context.Context) (T, error) {
	var zero T
	if s.all == nil {
		return zero, ErrNoSession
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil || s.state != live {
		return zero, err
	}
	return s.data()
}

func (s *Session[T]) data() (T, error) {
	data, err := s.all.codec.decode(s.frame.codec, s.frame.rest)
	if err != nil {
		err = fmt.Errorf("session: decode data: %w", err)
	}
	return data, err
}

// Exists reports whether the request has a live session.
func (s *Session[T]) Exists(ctx context.Context) (bool, error) {
	if s.all == nil {
		return false, ErrNoSession
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.load(ctx)
	return s.state == live, err
}

// User is the account given to Login, "" without.
func (s *Session[T]) User(ctx context.Context) (string, error) {
	if s.all == nil {
		return "", ErrNoSession
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil || s.state != live {
		return "", err
	}
	return s.rec.User, nil
}

// Update changes the data and stores it before it returns; the closure is run again on the newest data when another
// request was faster, so it must do nothing but change its argument. Without a session one is created and its cookie
// set. An error of the closure changes nothing and is returned. ErrNotFound: the session has ended while this request
// was under way, and stays ended. ErrHeaderSent: there is none, and it is too late to set a cookie.
func (s *Session[T]) Update(ctx context.Context, change func(*T) error) error {
	return s.change(ctx, "update", func(_ *Record, _ *meta, data *T) error { return change(data) })
}

// Login binds the session to a user under a new id, without grace for the old one or for a Regenerate just before
// (against session fixation), and applies change to its data (nil: none). Use it again when privileges change. What
// belonged to another user who was logged in is not handed on: data and flashes begin empty. The timeouts begin anew
// with those of Options; call Remember and SetTimeouts afterwards.
func (s *Session[T]) Login(ctx context.Context, user string, change func(*T) error) error {
	if user == "" {
		return errors.New("session: Login without a user")
	}
	err := s.rotate(ctx, "login", 0, func(r *Record, m *meta, data *T) error {
		now := time.Now()
		if r.User != "" && r.User != user {
			var zero T
			*data, m.flashes = zero, nil
		}
		r.User, m.user, m.remember, m.form = user, user, false, ""
		r.Created, r.Seen, r.Expires, r.Idle = now, now, now.Add(s.all.o.Absolute), max(0, s.all.o.Idle)
		m.address, m.agent = s.device()
		if change != nil {
			return change(data)
		}
		return nil
	})
	if err == nil {
		s.all.stats.logins.Add(1)
		s.all.event(ctx, EventLogin, user)
	}
	return err
}

// device is where the request comes from, for the session's owner to see.
func (s *Session[T]) device() (address, agent string) {
	return cut(s.all.o.Address(s.r), 64), cut(s.r.UserAgent(), maxAgentBytes)
}

// Regenerate gives the session a new id; the old one works for Options.Grace. Without a session it does nothing.
func (s *Session[T]) Regenerate(ctx context.Context) error {
	if ok, err := s.Exists(ctx); err != nil || !ok {
		return err
	}
	return s.rotate(ctx, "regenerate", max(0, s.all.o.Grace), func(*Record, *meta, *T) error { return nil })
}

// Destroy ends the session and removes the cookie. Without one it does nothing.
func (s *Session[T]) Destroy(ctx context.Context) error {
	if s.all == nil {
		return ErrNoSession
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return err
	}
	if s.state == live {
		sctx, cancel, err := s.all.begin(ctx, "delete")
		if err != nil {
			return err
		}
		err = s.all.ended(ctx, "delete", s.all.store.Delete(sctx, s.rec.Key))
		cancel()
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		s.forget()
		s.all.stats.destroyed.Add(1)
		s.all.event(ctx, EventLogout, s.rec.User)
		s.state = gone
	}
	if !s.sealed && cookieValue(s.r.Header, s.all.o.Cookie) != "" {
		s.setCookie("", -1)
	}
	return nil
}

// Flash stores a message for the next request that asks. At most 32 are kept.
func (s *Session[T]) Flash(ctx context.Context, message string) error {
	return s.change(ctx, "flash", func(_ *Record, m *meta, _ *T) error {
		if len(m.flashes) < maxFlashes {
			m.flashes = append(m.flashes, message)
		}
		return nil
	})
}

// Flashes returns the messages stored by Flash and removes them: each is returned to one request only.
func (s *Session[T]) Flashes(ctx context.Context) (messages []string, err error) {
	if s.all == nil {
		return nil, ErrNoSession
	}
	s.mu.Lock()
	err = s.load(ctx)
	empty := s.state != live || len(s.frame.flashes) == 0
	s.mu.Unlock()
	if err != nil || empty {
		return nil, err
	}
	err = s.change(ctx, "flash", func(_ *Record, m *meta, _ *T) error {
		messages, m.flashes = m.flashes, nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	return messages, nil
}

// Remember makes the session last for d without idle timeout, and its cookie survive the browser's end.
func (s *Session[T]) Remember(ctx context.Context, d time.Duration) error {
	if d < time.Second {
		return fmt.Errorf("session: Remember for %v", d)
	}
	err := s.change(ctx, "remember", func(r *Record, m *meta, _ *T) error {
		r.Expires, r.Idle, m.remember = time.Now().Add(d), 0, true
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed {
		return ErrHeaderSent
	}
	s.setCookie(s.token.String(), cookieAge(&s.rec, &s.frame.meta, time.Now()))
	return nil
}

// SetTimeouts gives this session its own: absolute from now on, and idle after each use. Zero leaves one as it is; a
// negative idle means none.
func (s *Session[T]) SetTimeouts(ctx context.Context, absolute, idle time.Duration) error {
	if absolute < 0 || absolute > 0 && absolute < time.Second || idle > 0 && idle < time.Second {
		return fmt.Errorf("session: SetTimeouts to %v and %v, must be at least 1s", absolute, idle)
	}
	err := s.change(ctx, "timeouts", func(r *Record, _ *meta, _ *T) error {
		if absolute > 0 {
			r.Expires = time.Now().Add(absolute)
		}
		if idle != 0 {
			r.Idle = max(0, idle)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frame.remember && !s.sealed { // its cookie says when it ends
		s.setCookie(s.token.String(), cookieAge(&s.rec, &s.frame.meta, time.Now()))
	}
	return nil
}

// Stale reports whether the session's data comes from this server's memory because the store failed (Options.OnFailure:
// Stale). Ask before anything that a revoked session must not do.
func (s *Session[T]) Stale(ctx context.Context) (bool, error) {
	if s.all == nil {
		return false, ErrNoSession
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.load(ctx)
	return s.stale && s.state == live, err
}
