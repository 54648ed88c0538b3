package token

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/session"
)

// Revocations end tokens before they expire. The list stands in a session store, where all servers see it; each keeps a
// copy in memory and reads it anew every few seconds, so that checking a token still asks no store. An entry goes when
// the last token it could concern has expired. Create it with NewRevocations; it is safe for concurrent use.
type Revocations struct {
	store session.Store
	index session.UserIndex
	o     RevocationOptions
	mu    sync.Mutex // serializes changes of list
	list  atomic.Pointer[revoked]
	stop  context.CancelFunc
	done  chan struct{}
}

// RevocationOptions configure [Revocations]. The zero value is good.
type RevocationOptions struct {
	// Poll is how often the list is read: so long a token revoked on another server may still be accepted here. Default
	// 5 s.
	Poll time.Duration
	// MaxAge refuses all tokens when the list could not be read for so long. Default 0: the last list read goes on to
	// count.
	MaxAge time.Duration
	// Error is told when the list could not be read.
	Error func(error)
}

// revoked is an immutable list.
type revoked struct {
	read     time.Time
	ids      map[string]time.Time // until when
	sessions map[string]time.Time
	subjects map[string]subjectCut
}

type subjectCut struct {
	Before time.Time // tokens issued until then
	Until  time.Time
}

// entry is what the store keeps.
type entry struct {
	Kind   byte // i, s or u
	Name   string
	Before time.Time
}

// listUser is the account under which the entries stand in the store. No application should have it.
const listUser = "\x01tierkit revoked tokens"

// slack is kept beyond a token's expiry, for the largest leeway and clocks that differ.
const slack = maxLeeway + time.Minute

// NewRevocations reads the list, and then again and again until Close. store must be able to list the sessions of a
// user; all stores of this module can.
func NewRevocations(ctx context.Context, store session.Store, o RevocationOptions) (*Revocations, error) {
	index, ok := store.(session.UserIndex)
	if !ok {
		return nil, fmt.Errorf("token: NewRevocations: %w", session.ErrUnsupported)
	}
	if o.Poll == 0 {
		o.Poll = 5 * time.Second
	}
	if o.Poll < 10*time.Millisecond {
		return nil, fmt.Errorf("token: RevocationOptions.Poll is %v, must be at least 10ms", o.Poll)
	}
	if o.MaxAge < 0 || o.MaxAge > 0 && o.MaxAge <= o.Poll {
		return nil, fmt.Errorf("token: RevocationOptions.MaxAge is %v, must be more than Poll, or 0", o.MaxAge)
	}
	r := &Revocations{store: store, index: index, o: o, done: make(chan struct{})}
	r.list.Store(&revoked{})
	if err := r.Sync(ctx); err != nil {
		return nil, err
	}
	loop, stop := context.WithCancel(context.Background())
	r.stop = stop
	go r.poll(loop)
	return r, nil
}

// Close ends the reading of the list. Idempotent.
func (r *Revocations) Close() error {
	r.stop()
	<-r.done
	return nil
}

func (r *Revocations) poll(ctx context.Context) {
	defer close(r.done)
	t := time.NewTicker(r.o.Poll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		sctx, cancel := context.WithTimeout(ctx, max(r.o.Poll, time.Second))
		err := r.Sync(sctx)
		cancel()
		if err != nil && ctx.Err() == nil && r.o.Error != nil {
			r.o.Error(err)
		}
	}
}

// Sync reads the list now.
func (r *Revocations) Sync(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	ls, err := r.index.ListUser(ctx, listUser, now)
	if err != nil {
		return fmt.Errorf("token: revocations: %w", err)
	}
	n := &revoked{read: now}
	for _, l := range ls {
		var e entry
		if err := json.Unmarshal(l.Record.Data, &e); err != nil {
			return fmt.Errorf("token: revocations: %w", err)
		}
		n.add(e, l.Record.Expires)
	}
	r.list.Store(n)
	return nil
}

func (l *revoked) add(e entry, until time.Time) {
	put := func(m *map[string]time.Time) {
		if *m == nil {
			*m = map[string]time.Time{}
		}
		if until.After((*m)[e.Name]) {
			(*m)[e.Name] = until
		}
	}
	switch e.Kind {
	case 'i':
		put(&l.ids)
	case 's':
		put(&l.sessions)
	case 'u':
		if l.subjects == nil {
			l.subjects = map[string]subjectCut{}
		}
		if c := l.subjects[e.Name]; e.Before.After(c.Before) {
			l.subjects[e.Name] = subjectCut{e.Before, until}
		}
	}
}

// Revoked reports whether the list has the token with these claims.
func (r *Revocations) Revoked(c *Claims) bool {
	l := r.list.Load()
	if r.o.MaxAge > 0 && time.Since(l.read) > r.o.MaxAge {
		return true
	}
	if c.ID != "" && l.ids != nil {
		if _, ok := l.ids[c.ID]; ok {
			return true
		}
	}
	if c.Session != "" && l.sessions != nil {
		if _, ok := l.sessions[c.Session]; ok {
			return true
		}
	}
	if l.subjects != nil {
		if cut, ok := l.subjects[c.Subject]; ok && !c.IssuedAt.After(cut.Before) {
			return true
		}
	}
	return false
}

// Revoke ends one token by its ID.
func (r *Revocations) Revoke(ctx context.Context, c Claims) error {
	if c.ID == "" || c.Expires.IsZero() {
		return errors.New("token: Revoke needs the ID and expiry of a verified token")
	}
	return r.put(ctx, entry{Kind: 'i', Name: c.ID}, c.Expires)
}

// RevokeSession ends all tokens with this Claims.Session that expire until then.
func (r *Revocations) RevokeSession(ctx context.Context, id string, until time.Time) error {
	if id == "" {
		return errors.New("token: RevokeSession without a session")
	}
	return r.put(ctx, entry{Kind: 's', Name: id}, until)
}

// RevokeSubject ends all tokens of a subject that were issued until now, to the second: a token issued later within
// this second is refused too. ttl is how long tokens live at most.
func (r *Revocations) RevokeSubject(ctx context.Context, subject string, ttl time.Duration) error {
	if ttl <= 0 {
		return fmt.Errorf("token: RevokeSubject with a ttl of %v", ttl)
	}
	now := time.Now()
	return r.put(ctx, entry{Kind: 'u', Name: subject, Before: now}, now.Add(ttl))
}

// put writes an entry to the store and to this server's copy.
func (r *Revocations) put(ctx context.Context, e entry, until time.Time) error {
	now := time.Now()
	until = until.Add(slack)
	if !until.After(now) {
		return nil
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("token: revoke: %w", err)
	}
	key := session.Key(sha256.Sum256(append([]byte("tierkit revocation\x00"), data...)))
	rec := session.Record{Version: 1, User: listUser, Created: now, Seen: now, Expires: until, Data: data}
	if err := r.store.Create(ctx, key, rec); err != nil && !errors.Is(err, session.ErrExists) {
		return fmt.Errorf("token: revoke: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.list.Load()
	n := &revoked{read: old.read, ids: maps.Clone(old.ids), sessions: maps.Clone(old.sessions),
		subjects: maps.Clone(old.subjects)}
	n.add(e, until)
	r.list.Store(n)
	return nil
}

// Len is the number of entries in this server's copy.
func (r *Revocations) Len() int {
	l := r.list.Load()
	return len(l.ids) + len(l.sessions) + len(l.subjects)
}
