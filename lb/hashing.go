package lb

import (
	"math"
	"math/bits"
	"math/rand/v2"
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

func (k Key) hash() uint64 {
	if k.Keyed {
		return k.Hash
	}
	return rand.Uint64()
}

// SourceHash sends a key (by default the client's address) to the same backend, by weight, while the set stays as it
// is.
func SourceHash() Policy { return sourceHash{} }

type sourceHash struct{}

func (sourceHash) Picker(bs []*Backend) Picker { return hashed{newLottery(bs, chance{})} }

type hashed struct{ *lottery }

func (h hashed) Pick(k Key) *Backend { return h.draw(placement.HashUint64(k.hash())) }

// Maglev sends a key to the same backend by the lookup table of Eisenbud et al., "Maglev" (NSDI 2016, section 3.4): the
// most even spread and the cheapest pick, at slightly more movement than ConsistentHash when the set changes. Weights
// as in Envoy: a backend takes its turn to claim an entry as often as its weight demands.
func Maglev() Policy { return maglev{} }

type maglev struct{}

func (maglev) Picker(bs []*Backend) Picker {
	size := uint64(65537) // prime, at least 100 times the backends
	if len(bs) > 655 {
		size = 655373
	}
	heaviest := 0.0
	for _, b := range bs {
		heaviest = max(heaviest, b.Weight())
	}
	table := make([]*Backend, size)
	type walk struct {
		at, skip uint64
		target   float64
	}
	ws := make([]walk, len(bs))
	for i, b := range bs {
		ws[i] = walk{at: b.hash % size, skip: placement.HashUint64(b.hash)%(size-1) + 1}
	}
	for filled, turn := uint64(0), 1.0; filled < size; turn++ {
		for i := range ws {
			w := &ws[i]
			if turn*bs[i].Weight() < w.target {
				continue
			}
			w.target += heaviest
			for table[w.at] != nil {
				w.at = (w.at + w.skip) % size
			}
			table[w.at] = bs[i]
			if filled++; filled == size {
				break
			}
		}
	}
	return maglevTable(table)
}

type maglevTable []*Backend

func (t maglevTable) Pick(k Key) *Backend {
	i, _ := bits.Mul64(placement.HashUint64(k.hash()), uint64(len(t)))
	return t[i]
}

// Rendezvous sends a key to the backend with the highest score for it (Thaler and Ravishankar, "Using Name-Based
// Mappings to Increase Hit Rates", 1998; weights by Schindelhauer and Schomaker 2005). The least movement possible;
// O(n).
func Rendezvous() Policy { return rendezvous{} }

type rendezvous struct{}

func (rendezvous) Picker(bs []*Backend) Picker { return highest(bs) }

type highest []*Backend

func (h highest) Pick(k Key) *Backend {
	key := k.hash()
	var best *Backend
	top := math.Inf(-1)
	for _, b := range h {
		u := (float64(placement.HashUint64(key^b.hash)>>11) + 0.5) / (1 << 53)
		if s := b.Weight() / -math.Log(u); s > top {
			best, top = b, s
		}
	}
	return best
}
