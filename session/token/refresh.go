package token

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tierkit/tierkit/session"
)

// Pair is what a client gets at login and at each refresh.
type Pair struct {
	Access         string
	Refresh        string
	AccessExpires  time.Time
	RefreshExpires time.Time
}

// RefreshOptions configure a [Refresher]. The zero value is good.
type RefreshOptions struct {
	// TTL of a family: how long after login the user must log in again. Default 30 days.
	TTL time.Duration
	// Leeway is how long after an exchange the same refresh token still gets an answer (the same successor), for
	// parallel requests and lost responses. Default 15 s; negative: none.
	Leeway time.Duration
	// Reused is told when a token is used again after that.
	Reused func(ctx context.Context, subject, family string)
}

// Family is what a [FamilyStore] keeps per login.
type Family struct {
	Subject string
	Version uint64 `json:"-"` // compared by Update
	Current uint64 // number of the newest refresh token
	Rotated time.Time
	Expires time.Time
	Extra   map[string]string
}

// FamilyStore keeps refresh families where all servers see them. Missing or expired: ErrRevoked.
type FamilyStore interface {
	Create(ctx context.Context, id string, f Family) error
	Load(ctx context.Context, id string) (Family, error)
	// Update replaces the family if its version is f.Version and stores f.Version+1; false when it is another.
	Update(ctx context.Context, id string, f Family) (bool, error)
	// Delete removes the family; a missing one is no error.
	Delete(ctx context.Context, id string) error
}

// Refresher issues pairs of a short access token and a refresh token that is exchanged at each use. A refresh token
// that comes back after its exchange was stolen, or its thief was faster: the family ends for both (RFC 9700 section
// 4.14.2). It is safe for concurrent use on many servers.
type Refresher struct {
	a     *Authority
	store FamilyStore
	o     RefreshOptions
}

// NewRefresher returns a refresher that signs with a.
func NewRefresher(a *Authority, store FamilyStore, o RefreshOptions) (*Refresher, error) {
	if a == nil || store == nil {
		return nil, errors.New("token: NewRefresher needs an authority and a store")
	}
	if o.TTL == 0 {
		o.TTL = 30 * 24 * time.Hour
	}
	if o.TTL < time.Minute {
		return nil, fmt.Errorf("token: RefreshOptions.TTL is %v, must be at least 1m", o.TTL)
	}
	if o.Leeway == 0 {
		o.Leeway = 15 * time.Second
	}
	return &Refresher{a, store, o}, nil
}

// Issue starts a family at login. Of c it keeps Subject and Extra.
func (r *Refresher) Issue(ctx context.Context, c Claims) (Pair, error) {
	now := time.Now()
	f := Family{Subject: c.Subject, Version: 1, Current: 1, Rotated: now, Expires: now.Add(r.o.TTL), Extra: c.Extra}
	id := rand.Text()
	if err := r.store.Create(ctx, id, f); err != nil {
		return Pair{}, fmt.Errorf("token: issue: %w", err)
	}
	return r.pair(id, &f)
}

func (r *Refresher) pair(id string, f *Family) (Pair, error) {
	now := time.Now()
	expires := now.Add(r.a.o.TTL)
	if f.Expires.Before(expires) {
		expires = f.Expires
	}
	access, err := r.a.Sign(Claims{Subject: f.Subject, Session: id, IssuedAt: now, Expires: expires, Extra: f.Extra})
	if err != nil {
		return Pair{}, err
	}
	refresh, err := signCompact((*r.a.keys.Load())[0], domainRefresh,
		&Claims{ID: id, Subject: strconv.FormatUint(f.Current, 10), Expires: f.Expires})
	if err != nil {
		return Pair{}, err
	}
	return Pair{Access: access, Refresh: refresh, AccessExpires: expires, RefreshExpires: f.Expires}, nil
}

// open checks a refresh token's form, signature and expiry.
func (r *Refresher) open(ctx context.Context, refresh string) (family string, number uint64, err error) {
	var c Claims
	switch {
	case len(refresh) > maxToken:
		err = ErrMalformed
	default:
		err = r.a.verifyCompact(domainRefresh, refresh, &c)
	}
	if err == nil && !time.Now().Before(c.Expires) {
		err = ErrExpired
	}
	if err != nil {
		return "", 0, r.a.refused(ctx, &c, err)
	}
	number, err = strconv.ParseUint(c.Subject, 10, 64)
	if err != nil {
		return "", 0, ErrMalformed
	}
	return c.ID, number, nil
}

// Refresh exchanges a refresh token for a new pair. ErrReused: it was exchanged before, longer ago than the leeway, and
// the family is revoked. ErrRevoked: the family has ended. Other errors: the store's.
func (r *Refresher) Refresh(ctx context.Context, refresh string) (Pair, error) {
	id, number, err := r.open(ctx, refresh)
	if err != nil {
		return Pair{}, err
	}
	for {
		f, err := r.store.Load(ctx, id)
		if err != nil {
			return Pair{}, fmt.Errorf("token: refresh: %w", err)
		}
		now := time.Now()
		switch {
		case number == f.Current:
			f.Current++
			f.Rotated = now
			ok, err := r.store.Update(ctx, id, f)
			if err != nil {
				return Pair{}, fmt.Errorf("token: refresh: %w", err)
			}
			if !ok {
				continue // another server was faster
			}
			return r.pair(id, &f)
		case number+1 == f.Current && now.Sub(f.Rotated) < r.o.Leeway:
			return r.pair(id, &f)
		}
		if err := r.end(ctx, id); err != nil {
			return Pair{}, err
		}
		if r.o.Reused != nil {
			r.o.Reused(ctx, f.Subject, id)
		}
		if r.a.o.Event != nil {
			r.a.o.Event(ctx, EventRefreshReuse, f.Subject)
		}
		return Pair{}, ErrReused
	}
}

// Revoke ends the family of a refresh token: logout. Its access tokens live on until they expire, unless the authority
// has Revocations.
func (r *Refresher) Revoke(ctx context.Context, refresh string) error {
	id, _, err := r.open(ctx, refresh)
	if err != nil {
		return err
	}
	return r.end(ctx, id)
}

func (r *Refresher) end(ctx context.Context, id string) error {
	if err := r.store.Delete(ctx, id); err != nil {
		return fmt.Errorf("token: revoke: %w", err)
	}
	if rev := r.a.o.Revocations; rev != nil {
		return rev.RevokeSession(ctx, id, time.Now().Add(r.a.o.TTL))
	}
	return nil
}

// MemoryFamilies returns a FamilyStore in the process, for one server and for tests.
func MemoryFamilies() FamilyStore { return SessionFamilies(session.NewMemory()) }

// SessionFamilies keeps families in a session store, beside the sessions, so that tokens need no store of their own.
func SessionFamilies(s session.Store) FamilyStore { return families{s} }

type families struct{ s session.Store }

func familyKey(id string) session.Key {
	return sha256.Sum256([]byte("tierkit refresh family\x00" + id))
}

func (s families) record(f *Family) (session.Record, error) {
	data, err := json.Marshal(f)
	now := time.Now()
	return session.Record{Version: f.Version, Created: now, Seen: now, Expires: f.Expires, Data: data}, err
}

func (s families) Create(ctx context.Context, id string, f Family) error {
	r, err := s.record(&f)
	if err != nil {
		return err
	}
	return s.s.Create(ctx, familyKey(id), r)
}

func (s families) Load(ctx context.Context, id string) (f Family, err error) {
	r, err := s.s.Load(ctx, familyKey(id), time.Now())
	if errors.Is(err, session.ErrNotFound) {
		return f, ErrRevoked
	}
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(r.Data, &f); err != nil {
		return f, err
	}
	f.Version = r.Version
	return f, nil
}

func (s families) Update(ctx context.Context, id string, f Family) (bool, error) {
	r, err := s.record(&f)
	if err != nil {
		return false, err
	}
	switch err := s.s.Update(ctx, familyKey(id), r, time.Now()); {
	case errors.Is(err, session.ErrConflict):
		return false, nil
	case errors.Is(err, session.ErrNotFound):
		return false, ErrRevoked
	default:
		return err == nil, err
	}
}

func (s families) Delete(ctx context.Context, id string) error { return s.s.Delete(ctx, familyKey(id)) }
