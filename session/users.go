package session

import (
	"context"
	"fmt"
	"time"
)

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
		f, err := s.open(r)
		if err != nil {
			s.event(ctx, EventSwappedRecord, user)
			continue
		}
		in := info(r, &f.meta)
		in.Current = r.Key == current
		infos = append(infos, in)
	}
	return infos, nil
}

func (s *Sessions[T]) listed(ctx context.Context, user string) ([]Listed, error) {
	if s.index == nil {
		return nil, fmt.Errorf("list: %w", ErrUnsupported)
	}
	sctx, cancel, err := s.begin(ctx, "list")
	if err != nil {
		return nil, err
	}
	defer cancel()
	ls, err := s.index.ListUser(sctx, user, time.Now())
	return ls, s.ended(ctx, "list", err)
}

// Revoke ends one session of a user by its Info.ID. ErrNotFound: it has none of that id.
func (s *Sessions[T]) Revoke(ctx context.Context, user, id string) error {
	ls, err := s.listed(ctx, user)
	if err != nil {
		return err
	}
	for _, l := range ls {
		if publicID(l.Key) == id {
			sctx, cancel, err := s.begin(ctx, "delete")
			if err != nil {
				return err
			}
			defer cancel()
			if err := s.ended(ctx, "delete", s.store.Delete(sctx, l.Key)); err != nil {
				return err
			}
			s.recent.forgetWhere(func(r *Record) bool { return r.Key == l.Key })
			s.stats.destroyed.Add(1)
			s.event(ctx, EventRevoked, user)
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
	return s.revoke(ctx, user, Key{})
}

// RevokeOthers ends all sessions of a user but the request's own ("log out everywhere else"), and returns how many.
func (s *Sessions[T]) RevokeOthers(ctx context.Context, user string) (int, error) {
	if s.index == nil {
		return 0, fmt.Errorf("revoke: %w", ErrUnsupported)
	}
	return s.revoke(ctx, user, s.From(ctx).currentKey(ctx))
}

func (s *Sessions[T]) revoke(ctx context.Context, user string, keep Key) (int, error) {
	sctx, cancel, err := s.begin(ctx, "delete user")
	if err != nil {
		return 0, err
	}
	defer cancel()
	n := 0
	for range 3 { // again, for a session that was given a new id while its user's others were ended
		more, err := s.index.DeleteUser(sctx, user, keep)
		n += more
		if err = s.ended(ctx, "delete user", err); err != nil {
			return n, err
		}
		if more == 0 {
			break
		}
	}
	s.recent.forgetWhere(func(r *Record) bool { return r.User == user && r.Key != keep })
	s.stats.destroyed.Add(int64(n))
	s.event(ctx, EventRevoked, user)
	return n, nil
}

// LoginFailed reports a failed login to Hooks.Event, where attempts at guessing are counted with everything else.
func (s *Sessions[T]) LoginFailed(ctx context.Context, user string) {
	s.event(ctx, EventLoginFailed, user)
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

// info is the public part of a record.
func info(r *Record, m *meta) Info {
	return Info{ID: publicID(r.Key), User: r.User, Created: r.Created, Seen: r.Seen, Expires: r.Deadline(),
		Address: m.address, Agent: m.agent}
}

// publicID names a session in lists; it is a part of the key, from which the cookie cannot be computed.
func publicID(k Key) string { return fmt.Sprintf("%x", k[16:26]) }
