package token

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// The compact format: v1.<key id>.<base64url payload>.<base64url HMAC-SHA256>, where the MAC is over a domain, which says what the token is for, and
// everything before the last dot. The payload is times in Unix seconds as varints, and strings with their lengths. It has no
// algorithm field to be lied in.
const (
	compactPrefix = "v1."
	domainAccess  = "tierkit access token\x00"
	domainRefresh = "tierkit refresh token\x00"
)

var b64 = base64.RawURLEncoding.Strict()

func signCompact(k *key, domain string, c *Claims) string {
	p := make([]byte, 0, 128)
	for _, t := range []time.Time{c.IssuedAt, c.NotBefore, c.Expires} {
		p = binary.AppendUvarint(p, unix(t))
	}
	for _, s := range []string{c.ID, c.Subject, c.Issuer, c.Audience} {
		p = append(binary.AppendUvarint(p, uint64(len(s))), s...)
	}
	names := make([]string, 0, len(c.Extra))
	for n := range c.Extra {
		names = append(names, n)
	}
	slices.Sort(names)
	p = binary.AppendUvarint(p, uint64(len(names)))
	for _, n := range names {
		p = append(binary.AppendUvarint(p, uint64(len(n))), n...)
		p = append(binary.AppendUvarint(p, uint64(len(c.Extra[n]))), c.Extra[n]...)
	}
	t := compactPrefix + k.id + "." + b64.EncodeToString(p)
	var out string
	k.sign(domain, t, func(sum []byte) { out = t + "." + b64.EncodeToString(sum) })
	return out
}

func unix(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(0, t.Unix()))
}

func (a *Authority) verifyCompact(domain, t string) (c Claims, err error) {
	rest, ok := strings.CutPrefix(t, compactPrefix)
	last := strings.LastIndexByte(t, '.')
	id, payload, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || len(payload) < 44 || last < len(t)-len(payload) {
		return c, ErrMalformed
	}
	k := a.find(id)
	if k == nil {
		return c, ErrUnknownKey
	}
	var sum [33]byte
	var enc [43]byte
	if len(t)-last-1 != len(enc) {
		return c, ErrSignature
	}
	copy(enc[:], t[last+1:])
	if n, err := b64.Decode(sum[:], enc[:]); err != nil || n != 32 || !k.valid(domain, t[:last], sum[:32]) {
		return c, ErrSignature
	}
	p, err := b64.DecodeString(payload[:len(payload)-len(enc)-1])
	if err != nil {
		return c, fmt.Errorf("%w: payload", ErrMalformed)
	}
	return parseCompact(unsafe.String(unsafe.SliceData(p), len(p)))
}

// parseCompact reads a payload whose signature is good; the claims share its memory.
func parseCompact(p string) (c Claims, err error) {
	bad := false
	number := func() uint64 {
		v := uint64(0)
		for i := 0; i < len(p) && i < 10; i++ {
			v |= uint64(p[i]&0x7f) << (7 * i)
			if p[i] < 0x80 {
				p = p[i+1:]
				return v
			}
		}
		bad, p = true, ""
		return 0
	}
	moment := func() time.Time {
		if n := number(); n > 0 && n < 1<<40 {
			return time.Unix(int64(n), 0)
		}
		return time.Time{}
	}
	str := func() string {
		n := number()
		if n > uint64(len(p)) {
			bad, p = true, ""
			return ""
		}
		s := p[:n]
		p = p[n:]
		return s
	}
	c.IssuedAt, c.NotBefore, c.Expires = moment(), moment(), moment()
	c.ID, c.Subject, c.Issuer, c.Audience = str(), str(), str(), str()
	for n := number(); n > 0 && !bad; n-- {
		if c.Extra == nil {
			c.Extra = map[string]string{}
		}
		name := str()
		c.Extra[name] = str()
	}
	if bad || p != "" {
		return Claims{}, ErrMalformed
	}
	return c, nil
}
