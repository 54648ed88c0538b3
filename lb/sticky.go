package lb

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"time"

	"github.com/tierkit/tierkit/internal/keyring"
)

// Sticky binds a client to a backend with a sealed cookie: it names the backend, yet shows nothing and can't be forged.
// A binding to a backend that drains, dies or left is replaced by a new one with the next answer.
type Sticky struct {
	Name     string        // of the cookie; empty: "lb"
	Keys     []StickyKey   // the first seals, all open; empty: a random key, so that bindings end with the process
	TTL      time.Duration // 0: a session cookie, valid for 24 h
	Path     string        // empty: "/"
	Domain   string
	Secure   bool
	SameSite http.SameSite // 0: Lax
}

// StickyKey seals cookies. Secret is at least 32 bytes.
type StickyKey struct {
	ID     string
	Secret []byte
}

type binding struct {
	Sticky
	ring *keyring.Ring
}

func newBinding(s Sticky) (*binding, error) {
	keys := make([]keyring.Key, len(s.Keys))
	for i, k := range s.Keys {
		keys[i] = keyring.Key{ID: k.ID, Secret: k.Secret}
	}
	ring, err := keyring.New(keys...)
	if err != nil {
		return nil, fmt.Errorf("lb: ProxyOptions.Sticky.Keys: %w", err)
	}
	if s.Name == "" {
		s.Name = "lb"
	}
	if s.Path == "" {
		s.Path = "/"
	}
	if s.SameSite == 0 {
		s.SameSite = http.SameSiteLaxMode
	}
	return &binding{s, ring}, nil
}

const stickyPurpose = "lb sticky"

// read returns the backend that the request is bound to, "" when it is to none or the cookie is not ours.
func (s *binding) read(r *http.Request) string {
	c, err := r.Cookie(s.Name)
	if err != nil || len(c.Value) > 512 {
		return ""
	}
	sealed, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return ""
	}
	plain, err := s.ring.Unseal(stickyPurpose, sealed, nil)
	if err != nil || len(plain) < 8 || time.Now().Unix() > int64(binary.BigEndian.Uint64(plain)) {
		return ""
	}
	return string(plain[8:])
}

// bind adds the cookie to an answer.
func (s *binding) bind(h http.Header, backend string) {
	ttl := s.TTL
	if ttl <= 0 {
		ttl = 24 * time.Hour
	}
	plain := binary.BigEndian.AppendUint64(nil, uint64(time.Now().Add(ttl).Unix()))
	sealed := s.ring.Seal(stickyPurpose, append(plain, backend...), nil)
	c := http.Cookie{Name: s.Name, Value: base64.RawURLEncoding.EncodeToString(sealed), Path: s.Path, Domain: s.Domain,
		Secure: s.Secure, SameSite: s.SameSite, HttpOnly: true}
	if s.TTL > 0 {
		c.MaxAge = int(s.TTL / time.Second)
	}
	h["Set-Cookie"] = append(h["Set-Cookie"], c.String())
}
