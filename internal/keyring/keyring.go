// Package keyring holds the secret keys behind every cookie, token and signed URL: HMAC-SHA256 (RFC 2104) and
// AES-256-GCM (NIST SP 800-38D) under keys derived per purpose, with rotation: the first key signs, all keys verify.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
	"sync/atomic"
)

// MinSecret is the shortest secret that New and Rotate accept, in bytes (RFC 7518 section 3.2).
const MinSecret = 32

var (
	// ErrBadSignature is returned for anything that no key of the ring signed or sealed for the purpose.
	ErrBadSignature = errors.New("keyring: bad signature")
	// ErrBadKey is returned for a key that the ring refuses.
	ErrBadKey = errors.New("keyring: bad key")
)

// Key is a secret with a name. The ID travels with what the key signs, in the clear.
type Key struct {
	// ID is 1 to 64 characters of [A-Za-z0-9_-].
	ID string
	// Secret is at least MinSecret bytes of random data.
	Secret []byte
}

// Ring signs with its first key and verifies with all. All methods are safe for concurrent use.
type Ring struct {
	keys atomic.Pointer[[]*key]
	mu   sync.Mutex // serializes Rotate and Drop
}

type key struct {
	id     string
	secret []byte

	mu       sync.RWMutex // guards purposes
	purposes map[string]*derived
}

// derived is a key for one purpose: what signs a cookie can neither sign a URL nor seal a session.
type derived struct {
	macs sync.Pool // of hash.Hash keyed with the derived MAC key; Reset keeps the key schedule
	aead cipher.AEAD
}

// New returns a ring whose first key signs. Without keys it makes a random one, for a single process that may forget
// what it signed when it restarts.
func New(keys ...Key) (*Ring, error) {
	if len(keys) == 0 {
		secret := make([]byte, MinSecret)
		rand.Read(secret)
		keys = []Key{{ID: "0", Secret: secret}}
	}
	r := &Ring{}
	var ks []*key
	for _, k := range keys {
		nk, err := newKey(k, ks)
		if err != nil {
			return nil, err
		}
		ks = append(ks, nk)
	}
	r.keys.Store(&ks)
	return r, nil
}

func newKey(k Key, have []*key) (*key, error) {
	if k.ID == "" || len(k.ID) > 64 || strings.Trim(k.ID,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return nil, fmt.Errorf("%w: ID %q is not 1 to 64 characters of [A-Za-z0-9_-]", ErrBadKey, k.ID)
	}
	if len(k.Secret) < MinSecret {
		return nil, fmt.Errorf("%w: Secret of key %q has %d bytes, needs at least %d", ErrBadKey, k.ID, len(k.Secret),
			MinSecret)
	}
	for _, h := range have {
		if h.id == k.ID {
			return nil, fmt.Errorf("%w: ID %q is used twice", ErrBadKey, k.ID)
		}
	}
	return &key{id: k.ID, secret: append([]byte(nil), k.Secret...), purposes: map[string]*derived{}}, nil
}

// Rotate makes k the signing key; what older keys signed stays valid until Drop.
func (r *Ring) Rotate(k Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := *r.keys.Load()
	nk, err := newKey(k, old)
	if err != nil {
		return err
	}
	ks := append([]*key{nk}, old...)
	r.keys.Store(&ks)
	return nil
}

// Drop forgets a key: what it signed is refused from now on. The last key can't be dropped.
func (r *Ring) Drop(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ks []*key
	for _, k := range *r.keys.Load() {
		if k.id != id {
			ks = append(ks, k)
		}
	}
	if len(ks) == 0 {
		return fmt.Errorf("%w: %q is the only key", ErrBadKey, id)
	}
	r.keys.Store(&ks)
	return nil
}

func (r *Ring) find(id string) *key {
	for _, k := range *r.keys.Load() {
		if k.id == id {
			return k
		}
	}
	return nil
}

// forPurpose derives with HKDF-SHA256 (RFC 5869). Purposes are the program's own constants, so their number is bounded.
func (k *key) forPurpose(purpose string) *derived {
	k.mu.RLock()
	d := k.purposes[purpose]
	k.mu.RUnlock()
	if d != nil {
		return d
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if d = k.purposes[purpose]; d != nil {
		return d
	}
	// The lengths asked for are constants within the limits of HKDF and AES: these calls can't fail.
	macKey, _ := hkdf.Key(sha256.New, k.secret, nil, "tierkit mac "+purpose, 32)
	sealKey, _ := hkdf.Key(sha256.New, k.secret, nil, "tierkit seal "+purpose, 32)
	block, _ := aes.NewCipher(sealKey)
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	d = &derived{aead: aead}
	d.macs.New = func() any { return &macState{h: hmac.New(sha256.New, macKey)} }
	k.purposes[purpose] = d
	return d
}

type macState struct {
	h    hash.Hash
	sum  [sha256.Size]byte
	size [8]byte
}

// mac hashes each part behind its length, so that no two lists of parts collide.
func (d *derived) mac(dst []byte, parts [][]byte) []byte {
	s := d.macs.Get().(*macState)
	s.h.Reset()
	for _, p := range parts {
		n := uint64(len(p))
		for i := range s.size {
			s.size[i] = byte(n >> (8 * i))
		}
		s.h.Write(s.size[:])
		s.h.Write(p)
	}
	dst = append(dst, s.h.Sum(s.sum[:0])...)
	d.macs.Put(s)
	return dst
}

// MAC appends the 32-byte HMAC of parts under the signing key to dst and names that key.
func (r *Ring) MAC(dst []byte, purpose string, parts ...[]byte) (keyID string, mac []byte) {
	k := (*r.keys.Load())[0]
	return k.id, k.forPurpose(purpose).mac(dst, parts)
}

// CheckMAC reports, in constant time, whether mac is the HMAC of parts under the named key.
func (r *Ring) CheckMAC(purpose, keyID string, mac []byte, parts ...[]byte) bool {
	k := r.find(keyID)
	if k == nil {
		return false
	}
	var buf [sha256.Size]byte
	return hmac.Equal(k.forPurpose(purpose).mac(buf[:0], parts), mac)
}

// Sign returns "<key id>.<base64url(msg)>.<base64url(mac)>": safe in cookies, headers and URLs.
func (r *Ring) Sign(purpose string, msg []byte) string {
	id, mac := r.MAC(nil, purpose, msg)
	return id + "." + base64.RawURLEncoding.EncodeToString(msg) + "." + base64.RawURLEncoding.EncodeToString(mac)
}

// Verify returns the message that Sign signed for the same purpose, or ErrBadSignature.
func (r *Ring) Verify(purpose, signed string) ([]byte, error) {
	id, rest, ok := strings.Cut(signed, ".")
	body, tag, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || strings.ContainsAny(rest, "\r\n") { // which base64 would skip
		return nil, ErrBadSignature
	}
	enc := base64.RawURLEncoding.Strict() // one spelling per value
	msg, err := enc.DecodeString(body)
	if err != nil {
		return nil, ErrBadSignature
	}
	mac, err := enc.DecodeString(tag)
	if err != nil || !r.CheckMAC(purpose, id, mac, msg) {
		return nil, ErrBadSignature
	}
	return msg, nil
}

// Seal encrypts and authenticates plain, and authenticates aad, under the signing key:
// one byte of key id length, key id, 12-byte random nonce, ciphertext, 16-byte tag.
// A key seals at most 2^32 messages safely (random nonces): rotate before.
func (r *Ring) Seal(purpose string, plain, aad []byte) []byte {
	k := (*r.keys.Load())[0]
	d := k.forPurpose(purpose)
	out := make([]byte, 0, 1+len(k.id)+len(plain)+d.aead.Overhead())
	out = append(append(out, byte(len(k.id))), k.id...)
	return d.aead.Seal(out, nil, plain, aad)
}

// Unseal returns what Seal sealed for the same purpose and aad, or ErrBadSignature.
func (r *Ring) Unseal(purpose string, sealed, aad []byte) ([]byte, error) {
	if len(sealed) == 0 || len(sealed) < 1+int(sealed[0]) {
		return nil, ErrBadSignature
	}
	n := 1 + int(sealed[0])
	k := r.find(string(sealed[1:n]))
	if k == nil {
		return nil, ErrBadSignature
	}
	plain, err := k.forPurpose(purpose).aead.Open(nil, nil, sealed[n:], aad)
	if err != nil {
		return nil, ErrBadSignature
	}
	return plain, nil
}
