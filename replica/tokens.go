package replica

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
	"github.com/tierkit/tierkit/internal/keyring"
)

const tokenPurpose = "tierkit/replica freshness"

// Tokens turns sessions into signed strings and back, so that read-your-writes holds from one request to the next and
// across servers. Safe for concurrent use.
type Tokens struct {
	ring *keyring.Ring
}

// NewTokens returns Tokens that sign with the first key and accept all of them. Without keys it makes a random one,
// which is right for a single process. All servers behind one balancer need the same keys.
func NewTokens(keys ...Key) (*Tokens, error) {
	ring, err := keyring.New(keys...)
	if err != nil {
		return nil, fmt.Errorf("replica: token keys: %w", err)
	}
	return &Tokens{ring: ring}, nil
}

// wireFloor is one cluster's entry in a token.
type wireFloor struct {
	Position
	At      int64  `json:"a,omitempty"` // Unix milliseconds
	Unknown bool   `json:"u,omitempty"`
	Node    string `json:"n,omitempty"`
	ReadAt  int64  `json:"r,omitempty"`
}

// Encode signs the session's positions. An empty session gives "".
func (t *Tokens) Encode(s *Session) string {
	s.mu.Lock()
	wire := make(map[string]wireFloor, len(s.floors))
	for k, f := range s.floors {
		w := wireFloor{Position: f.pos, Unknown: f.unknown, Node: f.node}
		if !f.at.IsZero() {
			w.At = f.at.UnixMilli()
		}
		if !f.readAt.IsZero() {
			w.ReadAt = f.readAt.UnixMilli() + 1 // rounded up: a probe must be later than the read
		}
		wire[k] = w
	}
	s.mu.Unlock()
	if len(wire) == 0 {
		return ""
	}
	b, err := json.Marshal(wire)
	if err != nil {
		return ""
	}
	return t.ring.Sign(tokenPurpose, b)
}

// Decode verifies a token. ErrToken when it was not signed by one of the keys.
func (t *Tokens) Decode(token string) (*Session, error) {
	b, err := t.ring.Verify(tokenPurpose, token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	var wire map[string]wireFloor
	if err := json.Unmarshal(b, &wire); err != nil || len(wire) > maxFloors {
		return nil, ErrToken
	}
	s := &Session{floors: make(map[string]floor, len(wire))}
	for k, w := range wire {
		f := floor{pos: w.Position, unknown: w.Unknown, node: w.Node}
		if w.Unknown {
			f.writes, f.lost = 1, 1
		}
		if w.At != 0 {
			f.at = time.UnixMilli(w.At)
		}
		if w.ReadAt != 0 {
			f.readAt = time.UnixMilli(w.ReadAt)
		}
		s.floors[k] = f
	}
	return s, nil
}

// CookieOptions configure Middleware.
type CookieOptions struct {
	// Name of the cookie. Default "rw".
	Name string
	// Header, when set, carries the token in this request and response header instead of a cookie, for API clients.
	Header string
	// MaxAge in seconds. 0: 300, longer than any sane replication lag. After that a browser forgets its token.
	MaxAge int
	// Insecure drops the Secure attribute, for plain-HTTP development.
	Insecure bool
	// Path of the cookie. Default "/".
	Path string
}

// Middleware puts a session into each request's context, from the request's token when it has a valid one, and sends a
// token back only after the request wrote something and only when the response is not marked "Cache-Control: public",
// so that no shared cache stores one user's token. Write before the response begins: what is written after its header
// went out is in no token.
func (t *Tokens) Middleware(o CookieOptions) func(http.Handler) http.Handler {
	if o.Name == "" {
		o.Name = "rw"
	}
	if o.MaxAge == 0 {
		o.MaxAge = 300
	}
	if o.Path == "" {
		o.Path = "/"
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := NewSession()
			if token := o.token(r); token != "" {
				if old, err := t.Decode(token); err == nil {
					s = old
				}
			}
			ww := httpwrap.Wrap(w)
			ww.Before = func(int) int {
				h := ww.Header()
				if !s.Wrote() || strings.Contains(strings.ToLower(h.Get("Cache-Control")), "public") {
					return 0
				}
				if o.Header != "" {
					h.Set(o.Header, t.Encode(s))
					return 0
				}
				http.SetCookie(ww, &http.Cookie{Name: o.Name, Value: t.Encode(s), Path: o.Path, MaxAge: o.MaxAge,
					HttpOnly: true, Secure: !o.Insecure, SameSite: http.SameSiteLaxMode})
				return 0
			}
			next.ServeHTTP(ww, r.WithContext(WithSession(r.Context(), s)))
			ww.Finish()
		})
	}
}

func (o *CookieOptions) token(r *http.Request) string {
	if o.Header != "" {
		return r.Header.Get(o.Header)
	}
	if c, err := r.Cookie(o.Name); err == nil {
		return c.Value
	}
	return ""
}
