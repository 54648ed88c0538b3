package token

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// The compact format:
//
//	v1.<key id>.<payload>.<signature>
//
// The signature, in base64url, covers everything before the last dot, under a key derived for the kind of token. There
// is no algorithm field to be lied in. The payload is fields with ~ between them: times in Unix seconds, base 32; then
// strings; then names and values. Letters, digits, -, _ and . stand for themselves, every other byte is + and two hex
// digits: so the strings of most tokens are parts of the token itself, and reading them allocates nothing. All of it is
// within what "Authorization: Bearer" allows (RFC 6750 section 2.1).
const (
	compactPrefix = "v1."
	times         = 3 // issued, not before, expires
	texts         = 5 // ID, session, subject, issuer, audience
	maxExtra      = 64
)

func signCompact(k *key, d domain, c *Claims) (string, error) {
	b := make([]byte, 0, 256)
	b = append(append(append(b, compactPrefix...), k.id...), '.')
	for i, t := range [times]time.Time{c.IssuedAt, c.NotBefore, c.Expires} {
		if i > 0 {
			b = append(b, '~')
		}
		if !t.IsZero() {
			b = strconv.AppendInt(b, max(0, t.Unix()), 32)
		}
	}
	for _, s := range [texts]string{c.ID, c.Session, c.Subject, c.Issuer, c.Audience} {
		b = appendText(append(b, '~'), s)
	}
	names := make([]string, 0, len(c.Extra))
	for n := range c.Extra {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		b = appendText(append(b, '~'), n)
		b = appendText(append(b, '~'), c.Extra[n])
	}
	sig, err := k.sign(d, string(b))
	if err != nil {
		return "", err
	}
	return string(append(append(b, '.'), sig...)), nil
}

var plain = func() (t [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") {
		t[c] = true
	}
	return t
}()

func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; plain[c] {
			b = append(b, c)
		} else {
			b = append(b, '+', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		}
	}
	return b
}

// unescape undoes appendText; it refuses every other spelling.
func unescape(s string) (string, bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+2 >= len(s) || strings.ToLower(s[i+1:i+3]) != s[i+1:i+3] {
				return "", false
			}
			v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if c = byte(v); err != nil || plain[c] {
				return "", false
			}
			i += 2
		} else if !plain[c] {
			return "", false
		}
		b = append(b, c)
	}
	return string(b), true
}

func (a *Authority) verifyCompact(d domain, t string, c *Claims) error {
	if !strings.HasPrefix(t, compactPrefix) {
		return ErrMalformed
	}
	var k *key
	for _, have := range *a.keys.Load() {
		if strings.HasPrefix(t, have.prefix) {
			k = have
			break
		}
	}
	if k == nil {
		if strings.Count(t, ".") < 3 {
			return ErrMalformed
		}
		return ErrUnknownKey
	}
	dot := len(t) - 1 - k.sigLen
	if k.sigLen == 0 {
		dot = strings.LastIndexByte(t, '.')
	}
	if dot < len(k.prefix) || t[dot] != '.' {
		return ErrMalformed
	}
	if !k.valid(d, t[:dot], t[dot+1:]) {
		return ErrSignature
	}
	return a.parseCompact(t[len(k.prefix):dot], c)
}

// fields cuts a payload at its tildes.
type fields struct {
	rest    string
	more    bool
	escaped bool // there is a + in the payload
}

func (p *fields) next() string {
	f := p.rest
	i := strings.IndexByte(f, '~')
	if i < 0 {
		p.rest, p.more = "", false
		return f
	}
	p.rest = f[i+1:]
	return f[:i]
}

func (p *fields) text() (string, bool) {
	f := p.next()
	if !p.escaped {
		return f, true
	}
	return unescape(f)
}

// parseCompact reads a payload whose signature is good; the claims share its memory.
func (a *Authority) parseCompact(payload string, c *Claims) error {
	p := fields{payload, true, strings.IndexByte(payload, '+') >= 0}
	for _, dst := range [times]*time.Time{&c.IssuedAt, &c.NotBefore, &c.Expires} {
		if f := p.next(); !p.more || f != "" && !moment(f, dst) {
			return ErrMalformed
		}
	}
	for _, dst := range [texts]*string{&c.ID, &c.Session, &c.Subject, &c.Issuer, &c.Audience} {
		if !p.more {
			return ErrMalformed
		}
		f := p.next()
		switch {
		case !p.escaped:
			*dst = f
		case f == a.issuer: // our own, whose escapes were undone once
			*dst = a.o.Issuer
		case f == a.audience:
			*dst = a.o.Audience
		default:
			var ok bool
			if *dst, ok = unescape(f); !ok {
				return ErrMalformed
			}
		}
	}
	for p.more {
		name, ok := p.text()
		if !ok || !p.more || len(c.Extra) == maxExtra {
			return ErrMalformed
		}
		value, ok := p.text()
		if _, twice := c.Extra[name]; !ok || twice {
			return ErrMalformed
		}
		if c.Extra == nil {
			c.Extra = map[string]string{}
		}
		c.Extra[name] = value
	}
	return nil
}

// base32 are the values of strconv's digits, 255 elsewhere.
var base32 = func() (t [256]uint8) {
	for c := range t {
		t[c] = 255
		switch {
		case c >= '0' && c <= '9':
			t[c] = uint8(c - '0')
		case c >= 'a' && c <= 'v':
			t[c] = uint8(c - 'a' + 10)
		}
	}
	return t
}()

// moment reads seconds in base 32, in the one spelling that they have.
func moment(f string, dst *time.Time) bool {
	if len(f) > 8 || f[0] == '0' && len(f) > 1 {
		return false
	}
	n := int64(0)
	for i := range len(f) {
		v := base32[f[i]]
		if v > 31 {
			return false
		}
		n = n<<5 | int64(v)
	}
	*dst = time.Unix(n, 0)
	return true
}
