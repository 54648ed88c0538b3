package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
)

// Session is one request's view of its session. Its methods may be called from several goroutines of the request, and not after its end.
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
	meta   meta
	rest   []byte // T, encoded
	err    error  // of a failed load
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

// Get returns the data, the zero T when there is no session; what it shares with other copies is nothing. The first call loads it.
// Errors: ErrUnavailable, ErrNoSession.
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
	data, err := s.all.codec.decode(s.meta.codec, s.rest)
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

// Update changes the data and stores it before it returns; the closure is run again on the newest data when another request was faster, so it
// must do nothing but change its argument. Without a session one is created and its cookie set. An error of the closure changes nothing and is
// returned. ErrNotFound: the session has ended while this request was under way, and stays ended. ErrHeaderSent: there is none, and it is too late to set
// a cookie.
func (s *Session[T]) Update(ctx context.Context, change func(*T) error) error {
	return s.change(ctx, "update", func(_ *Record, _ *meta, data *T) error { return change(data) })
}

// Login binds the session to a user under a new id, without grace for the old one (against session fixation), and applies change to its data
// (nil: none). Use it again when privileges change.
func (s *Session[T]) Login(ctx context.Context, user string, change func(*T) error) error {
	if user == "" {
		return errors.New("session: Login without a user")
	}
	err := s.rotate(ctx, "login", 0, func(r *Record, m *meta, data *T) error {
		now := time.Now()
		r.User, m.user = user, user
		r.Created, r.Seen, r.Expires = now, now, now.Add(s.all.o.Absolute)
		m.address = cut(s.all.o.Address(s.r), 64)
		m.agent = cut(s.r.UserAgent(), maxAgentBytes)
		if change != nil {
			return change(data)
		}
		return nil
	})
	if err == nil {
		s.all.stats.logins.Add(1)
		s.all.event(ctx, "login", user)
	}
	return err
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
		sctx, cancel := s.all.bounded(ctx)
		defer cancel()
		if err := s.all.store.Delete(sctx, s.rec.Key); err != nil {
			return s.all.failed(ctx, "delete", err)
		}
		s.all.stats.destroyed.Add(1)
		s.all.event(ctx, "logout", s.rec.User)
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
	empty := s.state != live || len(s.meta.flashes) == 0
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
	s.setCookie(s.token.String(), cookieAge(&s.rec, &s.meta, time.Now()))
	return nil
}

// load reads the session once; s.mu is held.
func (s *Session[T]) load(ctx context.Context) error {
	if s.state != fresh {
		return s.err
	}
	a := s.all
	if !s.sealed {
		s.varies()
	}
	v := cookieValue(s.r.Header, a.o.Cookie)
	if v == "" {
		s.state = none
		return nil
	}
	t, ok := parseToken(v)
	if !ok {
		a.event(ctx, "bad-cookie", "")
		s.state = none
		return nil
	}
	s.token, s.asked = t, sha256.Sum256(t[:])
	return s.read(ctx)
}

// read loads the record of s.asked.
func (s *Session[T]) read(ctx context.Context) error {
	a := s.all
	sctx, cancel := a.bounded(ctx)
	defer cancel()
	rec, err := a.store.Load(sctx, s.asked, time.Now())
	switch {
	case errors.Is(err, ErrNotFound):
		a.stats.missing.Add(1)
		s.state = none
		return nil
	case err != nil:
		err = a.failed(ctx, "load", err)
		if a.o.OnFailure == Anonymous {
			s.state = broken
			return nil
		}
		if ctx.Err() == nil { // the request's own end says nothing about the store
			s.state, s.err = broken, err
		}
		return err
	}
	a.stats.loads.Add(1)
	m, rest, err := decodeMeta(rec.Data, &rec)
	if err != nil {
		if errors.Is(err, errSwapped) {
			a.event(ctx, "swapped-record", rec.User)
		}
		s.state = none
		return nil
	}
	s.rec, s.meta, s.rest, s.state = rec, m, rest, live
	return nil
}

type changeFunc[T any] func(*Record, *meta, *T) error

// change runs f on the session's newest data until nobody else was faster.
func (s *Session[T]) change(ctx context.Context, op string, f changeFunc[T]) error {
	return s.write(ctx, op, f, func(ctx context.Context, rec *Record) error {
		return s.all.store.Update(ctx, s.asked, *rec, time.Now())
	}, nil)
}

// rotate is change under a new key.
func (s *Session[T]) rotate(ctx context.Context, op string, grace time.Duration, f changeFunc[T]) error {
	t := newToken()
	next := Key(sha256.Sum256(t[:]))
	return s.write(ctx, op, f, func(ctx context.Context, rec *Record) error {
		rec.Key = next
		return s.all.store.Rotate(ctx, s.asked, next, *rec, time.Now(), grace)
	}, &t)
}

// maxConflicts bounds how often a closure is run again; each time another request has succeeded.
const maxConflicts = 100

func (s *Session[T]) write(ctx context.Context, op string, f changeFunc[T], store func(context.Context, *Record) error, t *token) error {
	if s.all == nil {
		return ErrNoSession
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return err
	}
	a := s.all
	for attempt := 0; ; attempt++ {
		switch s.state {
		case broken:
			return fmt.Errorf("%s: %w", op, ErrUnavailable)
		case gone:
			return fmt.Errorf("%s: %w", op, ErrNotFound)
		case none:
			return s.create(ctx, f)
		}
		if t != nil && s.sealed {
			return fmt.Errorf("%s: %w", op, ErrHeaderSent)
		}
		rec, m := s.rec, s.meta
		m.flashes = append([]string(nil), m.flashes...)
		data, err := s.data()
		if err != nil {
			return err
		}
		if err := f(&rec, &m, &data); err != nil {
			return err
		}
		key := rec.Key
		if t != nil {
			key = sha256.Sum256(t[:])
		}
		if rec.Data, err = encode(a.codec, make([]byte, 0, len(s.rec.Data)+64), key, &m, &data); err != nil {
			return err
		}
		if t == nil && string(rec.Data) == string(s.rec.Data) && rec.Expires.Equal(s.rec.Expires) && rec.Idle == s.rec.Idle {
			return nil // nothing changed
		}
		sctx, cancel := a.bounded(ctx)
		err = store(sctx, &rec)
		cancel()
		switch {
		case err == nil:
			rec.Version++
			a.stats.updates.Add(1)
			s.rec = rec
			if t != nil {
				s.token, s.asked, s.rec.Key = *t, key, key
				s.setCookie(t.String(), cookieAge(&s.rec, &m, time.Now()))
			}
			s.meta, s.rest, err = decodeMeta(s.rec.Data, &s.rec)
			return err
		case errors.Is(err, ErrNotFound):
			s.state = gone
			return fmt.Errorf("%s: %w", op, ErrNotFound)
		case !errors.Is(err, ErrConflict) || attempt == maxConflicts:
			return a.failed(ctx, op, err)
		}
		a.stats.conflicts.Add(1)
		if attempt > 2 { // let the others through
			time.Sleep(time.Duration(rand.Int64N(int64(min(attempt, 20)) * int64(time.Millisecond))))
		}
		if err := s.read(ctx); err != nil {
			return err
		}
		if s.state == none {
			s.state = gone
		}
	}
}

// create makes a new session; s.mu is held.
func (s *Session[T]) create(ctx context.Context, f changeFunc[T]) error {
	a := s.all
	if s.sealed {
		return ErrHeaderSent
	}
	now := time.Now()
	rec := Record{Version: 1, Created: now, Seen: now, Expires: now.Add(a.o.Absolute), Idle: max(0, a.o.Idle)}
	m := meta{address: cut(a.o.Address(s.r), 64), agent: cut(s.r.UserAgent(), maxAgentBytes)}
	var data T
	if err := f(&rec, &m, &data); err != nil {
		return err
	}
	t := newToken()
	key := Key(sha256.Sum256(t[:]))
	var err error
	rec.Key = key
	if rec.Data, err = encode(a.codec, nil, key, &m, &data); err != nil {
		return err
	}
	sctx, cancel := a.bounded(ctx)
	defer cancel()
	if err := a.store.Create(sctx, key, rec); err != nil {
		return a.failed(ctx, "create", err)
	}
	a.stats.created.Add(1)
	s.token, s.asked, s.rec, s.state = t, key, rec, live
	s.setCookie(t.String(), cookieAge(&rec, &m, now))
	s.meta, s.rest, err = decodeMeta(rec.Data, &rec)
	return err
}

// setCookie replaces a Set-Cookie of ours that this response may have already; s.mu is held.
func (s *Session[T]) setCookie(value string, age int) {
	o := &s.all.o
	c := http.Cookie{Name: o.Cookie, Value: value, Path: o.Path, Domain: o.Domain, MaxAge: age, Secure: !o.Insecure, HttpOnly: true, SameSite: o.SameSite}
	h := s.w.Header()
	kept := h["Set-Cookie"][:0:0]
	for _, l := range h["Set-Cookie"] {
		if !strings.HasPrefix(l, o.Cookie+"=") {
			kept = append(kept, l)
		}
	}
	h["Set-Cookie"] = append(kept, c.String())
}

// varies keeps shared caches from giving one user's page to another; s.mu is held.
func (s *Session[T]) varies() {
	h := s.w.Header()
	for _, v := range h["Vary"] {
		if strings.Contains(v, "Cookie") || v == "*" {
			return
		}
	}
	if h["Vary"] == nil {
		s.vary[0] = "Cookie"
		h["Vary"] = s.vary[:]
		return
	}
	h.Add("Vary", "Cookie")
}

// seal runs just before the header goes out: a response that sets our cookie must not be stored by a shared cache.
func (s *Session[T]) seal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
	h := s.w.Header()
	for _, l := range h["Set-Cookie"] {
		if strings.HasPrefix(l, s.all.o.Cookie+"=") {
			cc := strings.ToLower(strings.Join(h["Cache-Control"], ","))
			if !strings.Contains(cc, "no-store") && !strings.Contains(cc, "private") || strings.Contains(cc, "public") || strings.Contains(cc, "s-maxage") {
				h.Set("Cache-Control", "private, no-store")
			}
			return
		}
	}
}

func (s *Session[T]) end() {
	s.mu.Lock()
	s.sealed = true
	s.mu.Unlock()
}

func (s *Session[T]) currentKey(ctx context.Context) Key {
	if s.all == nil {
		return Key{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.load(ctx)
	if s.state != live {
		return Key{}
	}
	return s.rec.Key
}
