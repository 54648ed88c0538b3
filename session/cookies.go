package session

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strings"
	"time"
)

// token is what the cookie carries: 256 random bits.
type token [32]byte

func newToken() (t token) {
	rand.Read(t[:]) // never fails (crypto/rand)
	return t
}

func (t token) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// parseToken refuses everything that String does not write.
func parseToken(v string) (t token, ok bool) {
	if len(v) != 43 {
		return t, false
	}
	var src [43]byte
	copy(src[:], v)
	n, err := base64.RawURLEncoding.Strict().Decode(t[:], src[:])
	return t, err == nil && n == len(t)
}

// cookieValue finds a cookie without parsing all of them.
func cookieValue(h http.Header, name string) string {
	for _, line := range h["Cookie"] {
		for line != "" {
			var part string
			part, line, _ = strings.Cut(line, ";")
			part = strings.TrimLeft(part, " \t")
			if len(part) > len(name) && part[len(name)] == '=' && part[:len(name)] == name {
				return strings.TrimRight(part[len(name)+1:], " \t")
			}
		}
	}
	return ""
}

// cookieAge is the Max-Age of a remembered session's cookie.
func cookieAge(r *Record, m *meta, now time.Time) int {
	if !m.remember {
		return 0
	}
	return max(1, int(r.Expires.Sub(now)/time.Second))
}

// setCookie replaces a Set-Cookie of ours that this response may have already; s.mu is held.
func (s *Session[T]) setCookie(value string, age int) {
	o := &s.all.o
	c := http.Cookie{Name: o.Cookie, Value: value, Path: o.Path, Domain: o.Domain, MaxAge: age, Secure: !o.Insecure,
		HttpOnly: true, SameSite: o.SameSite}
	h := s.w.Header()
	kept := h["Set-Cookie"][:0:0]
	for _, l := range h["Set-Cookie"] {
		if !strings.HasPrefix(l, o.Cookie+"=") {
			kept = append(kept, l)
		}
	}
	h["Set-Cookie"] = append(kept, c.String())
}

// varies keeps shared caches from giving one user's page to another; s.mu is held.
func (s *Session[T]) varies() {
	h := s.w.Header()
	for _, v := range h["Vary"] {
		if strings.Contains(v, "Cookie") || v == "*" {
			return
		}
	}
	if h["Vary"] == nil {
		s.vary[0] = "Cookie"
		h["Vary"] = s.vary[:]
		return
	}
	h.Add("Vary", "Cookie")
}

// seal runs just before the header goes out: a response that sets our cookie must not be stored by a shared cache.
func (s *Session[T]) seal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
	h := s.w.Header()
	for _, l := range h["Set-Cookie"] {
		if strings.HasPrefix(l, s.all.o.Cookie+"=") {
			cc := strings.ToLower(strings.Join(h["Cache-Control"], ","))
			if !strings.Contains(cc, "no-store") && !strings.Contains(cc, "private") ||
				strings.Contains(cc, "public") || strings.Contains(cc, "s-maxage") {
				h.Set("Cache-Control", "private, no-store")
			}
			return
		}
	}
}

func (s *Session[T]) end() {
	s.mu.Lock()
	s.sealed = true
	s.mu.Unlock()
}
