package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"strings"
	"sync"
	"unsafe"
)

// b64 has one spelling per value.
var b64 = base64.RawURLEncoding.Strict()

// Algorithm is how a key signs. It belongs to the key (RFC 8725 section 3.1): what a token says about it is only
// compared.
type Algorithm uint8

const (
	HS256 Algorithm = iota // HMAC with SHA-256
	HS384                  // HMAC with SHA-384
	HS512                  // HMAC with SHA-512
	EdDSA                  // Ed25519 (RFC 8037)
	ES256                  // ECDSA on P-256 with SHA-256
	RS256                  // RSA PKCS #1 v1.5 with SHA-256, to verify other people's tokens only
)

var algorithms = [...]string{"HS256", "HS384", "HS512", "EdDSA", "ES256", "RS256"}

func (a Algorithm) String() string {
	if int(a) < len(algorithms) {
		return algorithms[a]
	}
	return fmt.Sprintf("Algorithm(%d)", uint8(a))
}

// Key signs or verifies.
type Key struct {
	// ID is 1 to 64 letters, digits, - or _. It stands in every token.
	ID string
	// Alg is the only algorithm that this key is used with. Default HS256.
	Alg Algorithm
	// Secret is for HMAC: random bytes, at least as many as the hash has (32, 48, 64; RFC 7518 section 3.2).
	Secret []byte
	// Private signs, for EdDSA and ES256: an ed25519.PrivateKey, an *ecdsa.PrivateKey, or what a key management service
	// offers as one.
	Private crypto.Signer
	// Public verifies, for EdDSA (ed25519.PublicKey), ES256 (*ecdsa.PublicKey) and RS256 (*rsa.PublicKey, at least 2048
	// bits). Default: that of Private.
	Public crypto.PublicKey
}

// domain is what a signature is for, so that one kind of token is not taken for another. A JWT has no room for it:
// there it is the header's typ.
type domain uint8

const (
	domainJWT domain = iota
	domainAccess
	domainRefresh
	domains
)

var domainNames = [domains]string{"", "tierkit access token\x00", "tierkit refresh token\x00"}

// key is a checked Key. An HMAC key has its hash states kept ready, one kind per domain, each under a key derived for
// it: half of the cost of a short HMAC is hashing the key.
type key struct {
	id      string
	alg     Algorithm
	prefix  string // of a compact token
	sigLen  int    // characters of a signature, 0 if that differs
	header  string // of a JWT, encoded
	states  [domains]sync.Pool
	private crypto.Signer
	public  crypto.PublicKey
}

type mac struct {
	hash.Hash
	sum [sha512.Size]byte
	enc [86]byte // the sum in base64
}

func newKey(k Key, typ string) (*key, error) {
	if k.ID == "" || len(k.ID) > 64 || strings.Trim(k.ID,
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, fmt.Errorf("token: Key.ID %q must be 1 to 64 letters, digits, - or _", k.ID)
	}
	return newKeyNamed(k, typ)
}

// newKeyNamed is newKey for IDs that somebody else has chosen.
func newKeyNamed(k Key, typ string) (*key, error) {
	if int(k.Alg) >= len(algorithms) {
		return nil, fmt.Errorf("token: Key.Alg of %q is %v, not an algorithm", k.ID, k.Alg)
	}
	n := &key{id: k.ID, prefix: compactPrefix + k.ID + ".", alg: k.Alg, private: k.Private, public: k.Public}
	n.header = b64.EncodeToString([]byte(`{"alg":"` + k.Alg.String() + `","typ":"` + typ + `","kid":"` + k.ID + `"}`))
	if k.Alg <= HS512 {
		return n, n.symmetric(k)
	}
	return n, n.asymmetric(k)
}

func (n *key) symmetric(k Key) error {
	h := [...]func() hash.Hash{sha256.New, sha512.New384, sha512.New}[k.Alg]
	if k.Private != nil || k.Public != nil {
		return fmt.Errorf("token: Key %q: Private and Public do not go with %v", k.ID, k.Alg)
	}
	if size := h().Size(); len(k.Secret) < size {
		return fmt.Errorf("token: Key.Secret of %q has %d bytes, must have at least %d", k.ID, len(k.Secret), size)
	}
	// A public key that is used as a secret is known to everybody: the confusion behind many forged tokens.
	if _, err := x509.ParsePKIXPublicKey(k.Secret); err == nil || bytes.Contains(k.Secret, []byte("-----BEGIN ")) {
		return fmt.Errorf("token: Key.Secret of %q is a key file, not a secret; set Alg and Public or Private", k.ID)
	}
	n.sigLen = b64.EncodedLen(h().Size())
	secret := append([]byte(nil), k.Secret...)
	for d := range n.states {
		s := secret
		if d != int(domainJWT) {
			m := hmac.New(h, secret)
			m.Write([]byte(domainNames[d]))
			s = m.Sum(nil)
		}
		n.states[d].New = func() any { return &mac{Hash: hmac.New(h, s)} }
	}
	return nil
}

func (n *key) asymmetric(k Key) error {
	if len(k.Secret) > 0 {
		return fmt.Errorf("token: Key %q: Secret does not go with %v", k.ID, k.Alg)
	}
	if k.Private != nil {
		if k.Public != nil {
			return fmt.Errorf("token: Key %q: Private and Public exclude each other", k.ID)
		}
		if k.Alg == RS256 {
			return fmt.Errorf("token: Key.Private of %q: RS256 is for verifying; sign with EdDSA or ES256", k.ID)
		}
		n.public = k.Private.Public()
	}
	bad := errors.New("has another type than the algorithm needs")
	switch p := n.public.(type) {
	case ed25519.PublicKey:
		if k.Alg == EdDSA && len(p) == ed25519.PublicKeySize {
			bad = nil
		}
	case *ecdsa.PublicKey:
		if k.Alg == ES256 && p != nil {
			bad = nil
			if p.Curve != elliptic.P256() {
				bad = errors.New("is not on P-256")
			} else if _, err := p.Bytes(); err != nil {
				bad = err
			}
		}
	case *rsa.PublicKey:
		if k.Alg == RS256 && p != nil {
			bad = nil
			if p.N == nil || p.N.BitLen() < 2048 || p.N.BitLen() > 8192 || p.E < 3 {
				bad = errors.New("must have 2048 to 8192 bits")
			}
		}
	}
	if bad != nil {
		return fmt.Errorf("token: Key.Public of %q (%v) %w", k.ID, k.Alg, bad)
	}
	return nil
}

// sign returns the signature of input for a domain, in base64.
func (k *key) sign(d domain, input string) (string, error) {
	if k.alg <= HS512 {
		m := k.states[d].Get().(*mac)
		sig := string(m.encoded(input))
		k.states[d].Put(m)
		return sig, nil
	}
	if k.private == nil {
		return "", fmt.Errorf("%w: %q has no Private", ErrCannotSign, k.id)
	}
	msg := []byte(domainNames[d] + input)
	if k.alg == EdDSA {
		sig, err := k.private.Sign(nil, msg, crypto.Hash(0))
		if err != nil {
			return "", fmt.Errorf("token: sign: %w", err)
		}
		return b64.EncodeToString(sig), nil
	}
	sum := sha256.Sum256(msg)
	der, err := k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("token: sign: %w", err)
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 ||
		rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
		return "", errors.New("token: sign: the signer did not return an ECDSA signature")
	}
	var sig [64]byte
	rs.R.FillBytes(sig[:32])
	rs.S.FillBytes(sig[32:])
	return b64.EncodeToString(sig[:]), nil
}

// encoded is the sum of input in base64; it is valid until the next use of m.
func (m *mac) encoded(input string) []byte {
	m.Reset()
	m.Write(unsafe.Slice(unsafe.StringData(input), len(input))) // a Hash does not keep or change what it reads
	sum := m.Sum(m.sum[:0])
	n := b64.EncodedLen(len(sum))
	b64.Encode(m.enc[:n], sum)
	return m.enc[:n]
}

// valid checks a signature in base64. An HMAC is compared in that form, of which there is one per sum, in constant
// time.
func (k *key) valid(d domain, input, sig string) bool {
	if k.alg <= HS512 {
		m := k.states[d].Get().(*mac)
		ok := subtle.ConstantTimeCompare(m.encoded(input), unsafe.Slice(unsafe.StringData(sig), len(sig))) == 1
		k.states[d].Put(m)
		return ok
	}
	raw, err := b64.DecodeString(sig)
	if err != nil {
		return false
	}
	msg := []byte(domainNames[d] + input)
	switch p := k.public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(p, msg, raw)
	case *ecdsa.PublicKey:
		if len(raw) != 64 {
			return false
		}
		sum := sha256.Sum256(msg)
		return ecdsa.Verify(p, sum[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:]))
	case *rsa.PublicKey:
		sum := sha256.Sum256(msg)
		return rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], raw) == nil
	}
	return false
}
