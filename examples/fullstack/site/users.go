package site

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/tierkit/tierkit/session/token"
	"github.com/tierkit/tierkit/shard"
)

// iterations is far below what a real site needs (600,000 by OWASP's 2023 advice): the example registers hundreds of
// users in seconds on the two cores that also run everything else.
const iterations = 1000

func hashPassword(password string, salt []byte) []byte {
	h, _ := pbkdf2.Key(sha256.New, password, salt, iterations, 32) // fails for no argument given here
	return h
}

func credentials(r *http.Request) (name, password string, err error) {
	name, password = r.FormValue("name"), r.FormValue("password")
	if !validName(name) || len(password) < 8 || len(password) > 128 {
		return "", "", bad("name must be 1 to 32 characters of [a-z0-9-], password 8 to 128 characters")
	}
	return name, password, nil
}

func validName(name string) bool {
	return name != "" && len(name) <= 32 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func (s *Site) register(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.signUp(w, r); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// signUp makes an account and returns its name.
func (s *Site) signUp(w http.ResponseWriter, r *http.Request) (name string, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	id, err := key(r)
	if err != nil {
		return "", err
	}
	name, password, err := credentials(r)
	if err != nil {
		return "", err
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	taken := false
	err = s.write(r.Context(), shard.String(name), id, "register", func(ctx context.Context, tx *shard.Tx) error {
		res, err := tx.ExecContext(ctx, `
			INSERT INTO users (slot, name, salt, hash) VALUES (?, ?, ?, ?)
			ON CONFLICT (name) DO NOTHING`,
			int(tx.Slot()), name, salt, hashPassword(password, salt))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if taken = err == nil && n == 0; taken {
			return statusError{http.StatusConflict, "name is taken"} // rolls the record of the write back too
		}
		return err
	})
	return name, err
}

var errLogin = statusError{http.StatusUnauthorized, "wrong name or password"}

// check reads the user from any node that has seen what this client wrote: somebody who has just registered, perhaps
// through another server, gets in.
func (s *Site) check(ctx context.Context, name, password string) error {
	var salt, hash []byte
	err := s.Shards.Do(ctx, shard.String(name), func(ctx context.Context, db *sql.DB, _ shard.Slot) error {
		return db.QueryRowContext(ctx, `SELECT salt, hash FROM users WHERE name = ?`, name).Scan(&salt, &hash)
	})
	if errors.Is(err, sql.ErrNoRows) {
		hashPassword(password, make([]byte, 16)) // as slow as a wrong password
		return errLogin
	}
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(hashPassword(password, salt), hash) != 1 {
		return errLogin
	}
	return nil
}

func (s *Site) login(w http.ResponseWriter, r *http.Request) error {
	if err := s.signIn(w, r); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// signIn checks the password and starts the session, which every server knows from then on.
func (s *Site) signIn(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	name, password, err := credentials(r)
	if err == nil {
		err = s.check(r.Context(), name, password)
	}
	if errors.Is(err, errLogin) {
		s.Sessions.LoginFailed(r.Context(), name)
	}
	if err != nil {
		return err
	}
	return s.Sessions.From(r.Context()).Login(r.Context(), name, func(u *User) error { u.Name = name; return nil })
}

func (s *Site) logout(w http.ResponseWriter, r *http.Request) error {
	if err := s.Sessions.From(r.Context()).Destroy(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Site) me(w http.ResponseWriter, r *http.Request) error {
	user, err := s.user(r)
	if err != nil {
		return err
	}
	if user == "" {
		return statusError{http.StatusUnauthorized, "nobody"}
	}
	return answer(w, http.StatusOK, map[string]string{"name": user})
}

func answer(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}

func (s *Site) apiToken(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	name, password, err := credentials(r)
	if err == nil {
		err = s.check(r.Context(), name, password)
	}
	if err != nil {
		return err
	}
	pair, err := s.Refresh.Issue(r.Context(), token.Claims{Subject: name})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, pair)
}

func (s *Site) apiRefresh(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	pair, err := s.Refresh.Refresh(r.Context(), r.FormValue("refresh"))
	for _, e := range []error{token.ErrReused, token.ErrRevoked, token.ErrExpired, token.ErrSignature,
		token.ErrMalformed, token.ErrUnknownKey} {
		if errors.Is(err, e) {
			return statusError{http.StatusUnauthorized, "bad token"}
		}
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, pair)
}
