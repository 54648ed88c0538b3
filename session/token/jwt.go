package token

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unsafe"
)

// JWT after RFC 7519, with HMAC-SHA256 (RFC 7515, 7518), under the rules of RFC 8725: the algorithm is the key's (3.1), nothing is trusted before
// the signature (3.3), audience and issuer are checked (3.8, 3.9), kid is only looked up among our keys (3.10), critical extensions, of
// which we know none, are refused.
type jwtHeader struct {
	Alg  string          `json:"alg"`
	Typ  string          `json:"typ,omitempty"`
	Kid  string          `json:"kid,omitempty"`
	Crit json.RawMessage `json:"crit,omitempty"`
}

// registered claims stand beside the application's in one object.
var registered = map[string]bool{"jti": true, "sub": true, "iss": true, "aud": true, "iat": true, "nbf": true, "exp": true}

func signJWT(k *key, c *Claims) (string, error) {
	m := map[string]any{"exp": c.Expires.Unix()}
	for n, v := range c.Extra {
		if registered[n] {
			return "", fmt.Errorf("token: Claims.Extra has the registered name %q", n)
		}
		m[n] = v
	}
	for n, v := range map[string]string{"jti": c.ID, "sub": c.Subject, "iss": c.Issuer, "aud": c.Audience} {
		if v != "" {
			m[n] = v
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
	var out string
	k.sign("", t, func(sum []byte) { out = t + "." + b64.EncodeToString(sum) })
	return out, nil
}

func (a *Authority) verifyJWT(t string) (c Claims, err error) {
	head, rest, ok := strings.Cut(t, ".")
	payload, sig, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.Contains(sig, ".") {
		return c, ErrMalformed
	}
	if k := a.known(head); k != nil { // the header that we write ourselves
		return a.verifyPayload(k, t, payload, sig)
	}
	raw, err := b64.DecodeString(head)
	if err != nil {
		return c, fmt.Errorf("%w: header", ErrMalformed)
	}
	var h jwtHeader
	if err := json.Unmarshal(raw, &h); err != nil {
		return c, fmt.Errorf("%w: header", ErrMalformed)
	}
	keys := *a.keys.Load()
	k := a.find(h.Kid)
	if h.Kid == "" && len(keys) == 1 {
		k = keys[0]
	}
	switch {
	case h.Crit != nil:
		return c, fmt.Errorf("%w: critical extension", ErrMalformed)
	case h.Alg != "HS256" || k == nil:
		return c, ErrUnknownKey
	case h.Typ != "" && !strings.EqualFold(h.Typ, "JWT") && !strings.EqualFold(h.Typ, "at+jwt"):
		return c, fmt.Errorf("%w: typ %q", ErrMalformed, h.Typ)
	}
	return a.verifyPayload(k, t, payload, sig)
}

func (a *Authority) known(head string) *key {
	for _, k := range *a.keys.Load() {
		if k.header == head {
			return k
		}
	}
	return nil
}

func (a *Authority) verifyPayload(k *key, t, payload, sig string) (c Claims, err error) {
	var sum [33]byte
	var enc [43]byte
	if len(sig) != len(enc) {
		return c, ErrSignature
	}
	copy(enc[:], sig)
	if n, err := b64.Decode(sum[:], enc[:]); err != nil || n != 32 || !k.valid("", t[:len(t)-len(sig)-1], sum[:32]) {
		return c, ErrSignature
	}
	raw, err := b64.DecodeString(payload)
	if err != nil {
		return c, fmt.Errorf("%w: payload", ErrMalformed)
	}
	if c, ok := flatClaims(unsafe.String(unsafe.SliceData(raw), len(raw))); ok {
		return c, nil
	}
	return a.jwtClaims(raw)
}

// flatClaims reads the payloads that almost every issuer writes: one object of plain strings and whole numbers. Anything else (escapes, lists,
// nesting, spaces, repeated names) is left to encoding/json. The claims share p's memory.
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
			case "exp", "nbf", "iat":
				good = false
			default:
				if c.Extra == nil {
					c.Extra = map[string]string{}
				}
				_, again := c.Extra[name]
				c.Extra[name] = v
				good = !again
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
	if err := json.Unmarshal(raw, &m); err != nil {
		return c, fmt.Errorf("%w: payload", ErrMalformed)
	}
	for n, dst := range map[string]*string{"jti": &c.ID, "sub": &c.Subject, "iss": &c.Issuer} {
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
			c.Extra[n] = s
		}
	}
	return c, nil
}
