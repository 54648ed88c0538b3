package token

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"
)

// JWT after RFC 7519 and 7515, under the rules of RFC 8725: the algorithm is the key's (3.1), nothing is trusted before
// the signature (3.3), keys are checked when they are given to us (3.4, 3.5), text is UTF-8 (3.7), audience and issuer
// are checked (3.8, 3.9), kid is only looked up among our keys, and jku, x5u and jwk are not looked at (3.10), typ is
// compared (3.11), critical extensions, of which we know none, are refused.

// registered claims stand beside the application's in one object.
var registered = map[string]bool{"jti": true, "sid": true, "sub": true, "iss": true, "aud": true, "iat": true,
	"nbf": true, "exp": true}

func signJWT(k *key, c *Claims) (string, error) {
	m := map[string]any{"exp": c.Expires.Unix()}
	set := func(n, v string) error {
		if !utf8.ValidString(n) || !utf8.ValidString(v) {
			return fmt.Errorf("token: claim %q is not UTF-8", n)
		}
		m[n] = v
		return nil
	}
	for n, v := range c.Extra {
		if registered[n] {
			return "", fmt.Errorf("token: Claims.Extra has the registered name %q", n)
		}
		if err := set(n, v); err != nil {
			return "", err
		}
	}
	for n, v := range map[string]string{"jti": c.ID, "sid": c.Session, "sub": c.Subject, "iss": c.Issuer,
		"aud": c.Audience} {
		if v != "" {
			if err := set(n, v); err != nil {
				return "", err
			}
		}
	}
	if !c.IssuedAt.IsZero() {
		m["iat"] = c.IssuedAt.Unix()
	}
	if !c.NotBefore.IsZero() {
		m["nbf"] = c.NotBefore.Unix()
	}
	p, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	t := k.header + "." + b64.EncodeToString(p)
	sig, err := k.sign(domainJWT, t)
	if err != nil {
		return "", err
	}
	return t + "." + sig, nil
}

func (a *Authority) verifyJWT(t string, c *Claims) error {
	head, rest, ok := strings.Cut(t, ".")
	payload, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.IndexByte(sig, '.') >= 0 {
		return ErrMalformed
	}
	k := a.known(head) // the header that we write ourselves
	if k == nil {
		var err error
		if k, err = a.headerKey(head); err != nil {
			return err
		}
	}
	if !k.valid(domainJWT, t[:len(t)-len(sig)-1], sig) {
		return ErrSignature
	}
	raw, err := b64.DecodeString(payload)
	if err != nil {
		return fmt.Errorf("%w: payload", ErrMalformed)
	}
	if flat, ok := flatClaims(unsafe.String(unsafe.SliceData(raw), len(raw))); ok {
		*c = flat
		return nil
	}
	*c, err = a.jwtClaims(raw)
	return err
}

func (a *Authority) known(head string) *key {
	for _, k := range *a.keys.Load() {
		if k.header == head {
			return k
		}
	}
	return nil
}

// headerKey finds the key for somebody else's header.
func (a *Authority) headerKey(head string) (*key, error) {
	raw, err := b64.DecodeString(head)
	if err != nil || !utf8.Valid(raw) {
		return nil, fmt.Errorf("%w: header", ErrMalformed)
	}
	var h map[string]json.RawMessage // names are compared as they are: encoding/json would take "ALG" for alg
	if err := json.Unmarshal(raw, &h); err != nil || h == nil {
		return nil, fmt.Errorf("%w: header", ErrMalformed)
	}
	if _, ok := h["crit"]; ok {
		return nil, fmt.Errorf("%w: critical extension", ErrMalformed)
	}
	var alg, typ, kid string
	for n, dst := range map[string]*string{"alg": &alg, "typ": &typ, "kid": &kid} {
		if v, ok := h[n]; ok {
			if err := json.Unmarshal(v, dst); err != nil {
				return nil, fmt.Errorf("%w: header %s", ErrMalformed, n)
			}
		}
	}
	keys := *a.keys.Load()
	k := a.find(kid)
	if _, given := h["kid"]; !given && len(keys) == 1 {
		k = keys[0]
	}
	if k == nil || alg != k.alg.String() && (k.alg != EdDSA || alg != "Ed25519") { // RFC 9864 renames EdDSA
		return nil, ErrUnknownKey
	}
	if !a.typed(typ) {
		return nil, fmt.Errorf("%w: typ %q", ErrMalformed, typ)
	}
	return k, nil
}

func (a *Authority) typed(typ string) bool {
	typ, _ = cutPrefixFold(typ, "application/")
	if a.o.Type != "" {
		want, _ := cutPrefixFold(a.o.Type, "application/")
		return strings.EqualFold(typ, want)
	}
	return typ == "" || strings.EqualFold(typ, "JWT") || strings.EqualFold(typ, "at+jwt")
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		return s[len(prefix):], true
	}
	return s, false
}

// flatClaims reads the payloads that almost every issuer writes: one object of plain strings and whole numbers.
// Anything else (escapes, lists, nesting, spaces, repeated names) is left to encoding/json. The claims share p's
// memory.
func flatClaims(p string) (c Claims, ok bool) {
	if len(p) < 2 || p[0] != '{' || p[len(p)-1] != '}' {
		return c, false
	}
	p = p[1 : len(p)-1]
	text := func() (string, bool) {
		if len(p) < 2 || p[0] != '"' {
			return "", false
		}
		for i := 1; i < len(p); i++ {
			switch ch := p[i]; {
			case ch == '"':
				s := p[1:i]
				p = p[i+1:]
				return s, true
			case ch == '\\' || ch < 0x20 || ch >= 0x80:
				return "", false
			}
		}
		return "", false
	}
	seen := uint8(0)
	once := func(bit uint8) bool {
		first := seen&bit == 0
		seen |= bit
		return first
	}
	for {
		name, good := text()
		if !good || len(p) < 2 || p[0] != ':' {
			return c, false
		}
		p = p[1:]
		if p[0] == '"' {
			v, good := text()
			if !good {
				return c, false
			}
			switch name {
			case "jti":
				c.ID, good = v, once(1)
			case "sub":
				c.Subject, good = v, once(2)
			case "iss":
				c.Issuer, good = v, once(4)
			case "aud":
				c.Audience, good = v, once(8)
			case "sid":
				c.Session, good = v, once(128)
			case "exp", "nbf", "iat":
				good = false
			default:
				if c.Extra == nil {
					c.Extra = map[string]string{}
				}
				_, again := c.Extra[name]
				c.Extra[name] = v
				good = !again && len(c.Extra) <= maxExtra
			}
			if !good {
				return c, false
			}
		} else {
			n, i := int64(0), 0
			for ; i < len(p) && i < 12 && p[i] >= '0' && p[i] <= '9'; i++ {
				n = n*10 + int64(p[i]-'0')
			}
			if i == 0 || i > 1 && p[0] == '0' || n > 1<<40 {
				return c, false
			}
			p = p[i:]
			at := time.Unix(n, 0)
			switch {
			case name == "exp" && once(16):
				c.Expires = at
			case name == "nbf" && once(32):
				c.NotBefore = at
			case name == "iat" && once(64):
				c.IssuedAt = at
			default:
				return c, false
			}
		}
		if p == "" {
			return c, true
		}
		if p[0] != ',' {
			return c, false
		}
		p = p[1:]
	}
}

func (a *Authority) jwtClaims(raw []byte) (c Claims, err error) {
	var m map[string]json.RawMessage
	if !utf8.Valid(raw) {
		return c, fmt.Errorf("%w: payload is not UTF-8", ErrMalformed)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return c, fmt.Errorf("%w: payload", ErrMalformed)
	}
	for n, dst := range map[string]*string{"jti": &c.ID, "sid": &c.Session, "sub": &c.Subject, "iss": &c.Issuer} {
		if v, ok := m[n]; ok {
			if err := json.Unmarshal(v, dst); err != nil {
				return c, fmt.Errorf("%w: %s", ErrMalformed, n)
			}
		}
	}
	for n, dst := range map[string]*time.Time{"iat": &c.IssuedAt, "nbf": &c.NotBefore, "exp": &c.Expires} {
		if v, ok := m[n]; ok {
			var f float64 // NumericDate may have a fraction
			if err := json.Unmarshal(v, &f); err != nil || math.IsNaN(f) || f < 0 || f > 1<<40 {
				return c, fmt.Errorf("%w: %s", ErrMalformed, n)
			}
			sec, frac := math.Modf(f)
			*dst = time.Unix(int64(sec), int64(frac*1e9))
		}
	}
	if v, ok := m["aud"]; ok {
		var many []string
		if json.Unmarshal(v, &c.Audience) != nil {
			if err := json.Unmarshal(v, &many); err != nil {
				return c, fmt.Errorf("%w: aud", ErrMalformed)
			}
			for _, s := range many { // ours, if it is among them
				if c.Audience == "" || s == a.o.Audience {
					c.Audience = s
				}
			}
		}
	}
	for n, v := range m {
		var s string
		if !registered[n] && json.Unmarshal(v, &s) == nil {
			if c.Extra == nil {
				c.Extra = map[string]string{}
			}
			if c.Extra[n] = s; len(c.Extra) > maxExtra {
				return Claims{}, fmt.Errorf("%w: more than %d claims", ErrMalformed, maxExtra)
			}
		}
	}
	return c, nil
}
