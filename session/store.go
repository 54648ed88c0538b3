package session

import (
	"context"
	"errors"
	"time"
)

// Errors that a caller or a store can act on.
var (
	// ErrNotFound: there is no such session (also: it has expired, or was destroyed).
	ErrNotFound = errors.New("session: not found")
	// ErrConflict: the record was changed since it was read.
	ErrConflict = errors.New("session: changed meanwhile")
	// ErrExists: a record with this key exists.
	ErrExists = errors.New("session: key exists")
	// ErrHeaderSent: the response has begun, a cookie can not be set or removed any more. Nothing was changed.
	ErrHeaderSent = errors.New("session: response has begun")
	// ErrUnavailable: the store did not answer in time or failed.
	ErrUnavailable = errors.New("session: store unavailable")
	// ErrUnsupported: the store has no index by user.
	ErrUnsupported = errors.New("session: store does not support this")
	// ErrNoSession: the context does not come from the middleware.
	ErrNoSession = errors.New("session: no middleware on this request")
)

// Key is the SHA-256 of the cookie's token: what a store may know.
type Key [32]byte

// Record is what a store keeps for a key. Times have at least millisecond precision in every store.
type Record struct {
	// Version grows by one with every Update. Stores compare it, and set it.
	Version uint64
	// User is the account the session belongs to, "" before login.
	User string
	// Created and Seen are the session's first and (to a tenth of the idle timeout) last use.
	Created, Seen time.Time
	// Expires is the absolute end. Idle, when set, ends the session that long after Seen.
	Expires time.Time
	Idle    time.Duration
	// Key is what the record is stored under. Load sets it; it differs from the key asked for while that is a grace
	// key.
	Key Key
	// Data is the encoded application data with its frame; stores do not interpret it.
	Data []byte
}

// Deadline is when the record ends unless it is seen again.
func (r *Record) Deadline() time.Time {
	if r.Idle > 0 {
		if d := r.Seen.Add(r.Idle); d.Before(r.Expires) {
			return d
		}
	}
	return r.Expires
}

// Store keeps records. An expired record counts as missing, everywhere. All methods are safe for concurrent use, each
// is atomic, and what one has returned without error every later call sees, from any server. The suite
// session/sessiontest holds stores to this contract.
type Store interface {
	// Load returns the record, or ErrNotFound. When it has an idle timeout and its Seen lies back by a tenth of that or
	// more, Load sets Seen to now, in the same step and without changing Version, and returns it so. The caller does
	// not modify Data.
	Load(ctx context.Context, k Key, now time.Time) (Record, error)
	// Create stores a new record with Version 1, or returns ErrExists.
	Create(ctx context.Context, k Key, r Record) error
	// Update replaces the record if it exists with exactly r.Version, and stores r.Version+1. User does not change by
	// Update. ErrConflict if the version differs, ErrNotFound if there is none: an update never brings a session back.
	Update(ctx context.Context, k Key, r Record, now time.Time) error
	// Rotate does what Update does and moves the record to the key next. The old key is then missing, except that for
	// grace it leads to the record under next for Load, Update and Rotate (0: at once missing). An older grace key of
	// the session is missing afterwards. User may change.
	Rotate(ctx context.Context, k, next Key, r Record, now time.Time, grace time.Duration) error
	// Delete removes the record. A missing one is no error. A grace key removes the record it leads to.
	Delete(ctx context.Context, k Key) error
}

// UserIndex is what a store offers when it can find the sessions of a user. All stores of this module do.
type UserIndex interface {
	// ListUser returns the live sessions of a user, newest first.
	ListUser(ctx context.Context, user string, now time.Time) ([]Listed, error)
	// DeleteUser removes all sessions of a user but the one with the key keep (zero: all), and returns how many.
	DeleteUser(ctx context.Context, user string, keep Key) (int, error)
}

// Listed is one session of a user.
type Listed struct {
	Key    Key
	Record Record
}
