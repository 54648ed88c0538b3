package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

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
		a.event(ctx, EventBadCookie, "")
		s.state = none
		return nil
	}
	s.token, s.asked = t, sha256.Sum256(t[:])
	return s.read(ctx)
}

// read loads the record of s.asked.
func (s *Session[T]) read(ctx context.Context) error {
	a := s.all
	now := time.Now()
	var rec Record
	mark := a.recent.mark(s.asked)
	sctx, cancel, err := a.begin(ctx, "load")
	if err == nil {
		rec, err = a.store.Load(sctx, s.asked, now)
		cancel()
		err = a.ended(ctx, "load", err)
	}
	s.stale = false
	switch {
	case errors.Is(err, ErrNotFound):
		a.stats.missing.Add(1)
		a.event(ctx, EventUnknownSession, "")
		a.recent.missing(s.asked)
		s.state = none
		return nil
	case err != nil:
		if s.state == fresh && ctx.Err() == nil {
			if rec, s.stale = a.recent.recall(s.asked, now); s.stale {
				a.stats.stale.Add(1)
				break
			}
		}
		if a.o.OnFailure == Anonymous {
			s.state = broken
			return nil
		}
		if ctx.Err() == nil { // the request's own end says nothing about the store
			s.state, s.err = broken, err
		}
		return err
	}
	if !s.stale {
		a.stats.loads.Add(1)
	}
	f, err := a.open(&rec)
	if err != nil {
		kind := EventBadRecord
		if errors.Is(err, errSwapped) {
			kind = EventSwappedRecord
		}
		a.event(ctx, kind, rec.User)
		s.state = none
		return nil
	}
	s.rec, s.frame, s.state = rec, f, live
	if !s.stale {
		a.recent.remember(s.asked, &s.rec, now, mark)
	}
	return nil
}

// forget makes this server's memory of the session end with it.
func (s *Session[T]) forget() {
	s.all.recent.forget(s.asked)
	s.all.recent.forget(s.rec.Key)
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

func (s *Session[T]) write(ctx context.Context, op string, f changeFunc[T], store func(context.Context, *Record) error,
	t *token) error {
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
		rec, next, err := s.changed(f, t)
		if err != nil || next == nil {
			return err
		}
		asked, key := s.asked, s.rec.Key
		mark := a.recent.mark(asked)
		if t != nil {
			mark = a.recent.mark(rec.Key)
		}
		sctx, cancel, err := a.begin(ctx, op)
		if err != nil {
			return err
		}
		err = a.ended(ctx, op, store(sctx, &rec))
		cancel()
		switch {
		case err == nil:
			rec.Version++
			a.stats.updates.Add(1)
			if t != nil {
				defer a.recent.forget(asked) // after the new one is remembered, which that could keep from it
				defer a.recent.forget(key)
				s.token, s.asked = *t, rec.Key
				s.setCookie(t.String(), cookieAge(&rec, &next.meta, time.Now()))
			}
			return s.adopt(rec, next.bytes, mark)
		case errors.Is(err, ErrNotFound):
			s.forget()
			s.state = gone
			return fmt.Errorf("%s: %w", op, ErrNotFound)
		case !errors.Is(err, ErrConflict):
			return err
		case attempt == maxConflicts:
			return a.failed(ctx, op, err)
		}
		a.stats.conflicts.Add(1)
		if attempt > 2 { // let the others through
			if err := pause(ctx, time.Duration(
				rand.Int64N(int64(min(attempt, 20))*int64(time.Millisecond)))); err != nil {
				return a.failed(ctx, op, err)
			}
		}
		if err := s.read(ctx); err != nil {
			return err
		}
		if s.state == none {
			s.state = gone
		}
	}
}

// changed applies f to a copy of the session and returns the record to store, sealed for the key of t if that is given.
// No frame: nothing has changed.
func (s *Session[T]) changed(f changeFunc[T], t *token) (rec Record, next *frame, err error) {
	rec = s.rec
	m := s.frame.meta
	m.flashes = append([]string(nil), m.flashes...)
	data, err := s.data()
	if err != nil {
		return rec, nil, err
	}
	if err := f(&rec, &m, &data); err != nil {
		return rec, nil, err
	}
	if t != nil {
		rec.Key = sha256.Sum256(t[:])
	}
	plain, err := encode(s.all.codec, make([]byte, 0, len(s.frame.bytes)+64), rec.Key, &m, &data)
	if err != nil {
		return rec, nil, err
	}
	if t == nil && string(plain) == string(s.frame.bytes) && rec.Expires.Equal(s.rec.Expires) &&
		rec.Idle == s.rec.Idle {
		return rec, nil, nil
	}
	rec.Data = s.all.seal(rec.Key, plain)
	return rec, &frame{meta: m, bytes: plain}, nil
}

// adopt makes what the store has accepted the session's state.
func (s *Session[T]) adopt(rec Record, plain []byte, mark uint64) (err error) {
	s.rec, s.state, s.stale = rec, live, false
	s.all.recent.remember(s.asked, &s.rec, time.Now(), mark)
	s.frame, err = decodeFrame(plain, &s.rec)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
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
	var m meta
	m.address, m.agent = s.device()
	var data T
	if err := f(&rec, &m, &data); err != nil {
		return err
	}
	t := newToken()
	rec.Key = sha256.Sum256(t[:])
	plain, err := encode(a.codec, nil, rec.Key, &m, &data)
	if err != nil {
		return err
	}
	rec.Data = a.seal(rec.Key, plain)
	mark := a.recent.mark(rec.Key)
	sctx, cancel, err := a.begin(ctx, "create")
	if err != nil {
		return err
	}
	err = a.store.Create(sctx, rec.Key, rec)
	cancel()
	if err = a.ended(ctx, "create", err); err != nil {
		return err
	}
	a.stats.created.Add(1)
	s.token, s.asked = t, rec.Key
	s.setCookie(t.String(), cookieAge(&rec, &m, now))
	return s.adopt(rec, plain, mark)
}
