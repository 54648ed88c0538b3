package session

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
)

// ErrCSRF: the request does not carry a form token of its session.
var ErrCSRF = errors.New("session: missing or wrong form token")

// CSRFField is the form field, and CSRFHeader the header, in which RequireCSRF looks for the token.
const (
	CSRFField  = "csrf_token"
	CSRFHeader = "X-Csrf-Token"
)

// CSRFToken returns a token for a hidden form field: proof that the page came from this site. It creates a session when
// there is none (which sets a cookie: before the header goes out). Every call returns another spelling of it, masked
// with random bytes, so that compression does not give it away (BREACH); all of them are good until the next Login or
// the session's end, and survive Regenerate.
func (s *Session[T]) CSRFToken(ctx context.Context) (string, error) {
	secret, err := s.form(ctx)
	if err != nil {
		return "", err
	}
	if secret == "" {
		var random [formSecret]byte
		rand.Read(random[:])
		err := s.change(ctx, "csrf", func(_ *Record, m *meta, _ *T) error {
			if m.form == "" {
				m.form = string(random[:])
			}
			secret = m.form
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	sum := formSum(secret)
	var out [2 * sha256.Size]byte
	rand.Read(out[:sha256.Size])
	subtle.XORBytes(out[sha256.Size:], out[:sha256.Size], sum[:])
	return base64.RawURLEncoding.EncodeToString(out[:]), nil
}

// CheckCSRF returns ErrCSRF unless token comes from CSRFToken of this session.
func (s *Session[T]) CheckCSRF(ctx context.Context, token string) error {
	secret, err := s.form(ctx)
	if err != nil {
		return err
	}
	var got [2 * sha256.Size]byte
	if secret == "" || len(token) != base64.RawURLEncoding.EncodedLen(len(got)) {
		return ErrCSRF
	}
	if _, err := base64.RawURLEncoding.Strict().Decode(got[:], []byte(token)); err != nil {
		return ErrCSRF
	}
	subtle.XORBytes(got[sha256.Size:], got[sha256.Size:], got[:sha256.Size])
	if sum := formSum(secret); subtle.ConstantTimeCompare(got[sha256.Size:], sum[:]) != 1 {
		return ErrCSRF
	}
	return nil
}

func formSum(secret string) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte("tierkit form token"))
	h.Sum(sum[:0])
	return sum
}

// form is the session's secret of form tokens, "" when there is none yet.
func (s *Session[T]) form(ctx context.Context) (string, error) {
	if s.all == nil {
		return "", ErrNoSession
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil || s.state != live {
		return "", err
	}
	return s.frame.form, nil
}

// RequireCSRF lets requests of unsafe methods pass only with a token of CSRFToken, in the header CSRFHeader or the form
// field CSRFField; others get 403. It reads the form, so limit the body first (http.MaxBytesHandler), and stands inside
// of Middleware. Use it for forms where the cross-origin check of Middleware, which trusts what browsers since 2020 say
// about a request, is not enough.
func (s *Sessions[T]) RequireCSRF(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
			next.ServeHTTP(w, r)
			return
		}
		token := r.Header.Get(CSRFHeader)
		if token == "" {
			token = r.PostFormValue(CSRFField)
		}
		sess := s.From(r.Context())
		switch err := sess.CheckCSRF(r.Context(), token); {
		case errors.Is(err, ErrCSRF):
			user, _ := sess.User(r.Context())
			s.stats.refused.Add(1)
			s.event(r.Context(), EventCSRF, user)
			http.Error(w, "forbidden: form token", http.StatusForbidden)
		case err != nil:
			http.Error(w, "session unavailable", http.StatusServiceUnavailable)
		default:
			next.ServeHTTP(w, r)
		}
	})
}
