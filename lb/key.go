package lb

import (
	"net/http"
	"net/netip"

	"github.com/tierkit/tierkit/internal/placement"
)

// HashString hashes a key as all balancers of this version do (xxHash64).
func HashString(s string) uint64 { return placement.HashString(s) }

// KeyFunc derives the key of an HTTP request; ok false means none.
type KeyFunc func(r *http.Request, client netip.Addr) (hash uint64, ok bool)

// KeyClient keys by the client's address, an IPv6 one by its /64. The default.
func KeyClient() KeyFunc {
	return func(_ *http.Request, client netip.Addr) (uint64, bool) { return hashAddr(client), client.IsValid() }
}

func hashAddr(a netip.Addr) uint64 {
	a = a.Unmap()
	b := a.As16()
	hi := uint64(b[0])<<56 | uint64(b[1])<<48 | uint64(b[2])<<40 | uint64(b[3])<<32 | uint64(b[4])<<24 | uint64(
		b[5])<<16 | uint64(b[6])<<8 | uint64(b[7])
	if a.Is4() {
		hi = uint64(b[12])<<24 | uint64(b[13])<<16 | uint64(b[14])<<8 | uint64(b[15])
	}
	return placement.HashUint64(hi)
}

// hash returns the key of r by Options.Key.
func (b *Balancer) hash(r *http.Request, client netip.Addr) (hash uint64, ok bool) {
	if b.o.Key != nil {
		return b.o.Key(r, client)
	}
	return hashAddr(client), client.IsValid()
}

// KeyHeader keys by a request header.
func KeyHeader(name string) KeyFunc {
	name = http.CanonicalHeaderKey(name)
	return func(r *http.Request, _ netip.Addr) (uint64, bool) {
		if v := r.Header[name]; len(v) > 0 {
			return HashString(v[0]), true
		}
		return 0, false
	}
}

// KeyCookie keys by a cookie's value.
func KeyCookie(name string) KeyFunc {
	return func(r *http.Request, _ netip.Addr) (uint64, bool) {
		if c, err := r.Cookie(name); err == nil {
			return HashString(c.Value), true
		}
		return 0, false
	}
}

// KeyPath keys by the URL's path.
func KeyPath() KeyFunc {
	return func(r *http.Request, _ netip.Addr) (uint64, bool) { return HashString(r.URL.Path), true }
}
