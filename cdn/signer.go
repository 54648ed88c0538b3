package cdn

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/clientaddr"
	"github.com/tierkit/tierkit/internal/keyring"
)

// Errors of [Signer.Verify]; test with errors.Is.
var (
	ErrNotSigned = errors.New("cdn: the URL carries no signature")
	ErrBadSigned = errors.New("cdn: the signature does not fit")
	ErrExpired   = errors.New("cdn: the signature has expired")
)

// SigningKey signs URLs. Secret is at least 32 bytes.
type SigningKey struct {
	ID     string
	Secret []byte
}

// Grant is what a signature allows.
type Grant struct {
	Until  time.Time    // required, to the second
	Prefix string       // allow every path that begins with it, such as "/album/7/"; empty: the URL's own path alone
	Client netip.Prefix // allow clients of this network alone; zero: all
}

// Signer gives out URLs and cookies that open what is otherwise closed, without asking anybody at the edge: the grant
// and an HMAC over it travel with the request. Any change to the grant, or to what it is for, breaks it. Signers with
// the same keys, on any number of edges, accept each other's. It is safe for concurrent use.
type Signer struct {
	ring *keyring.Ring
	o    SignerOptions
}

// SignerOptions configure a [Signer].
type SignerOptions struct {
	Keys           []SigningKey   // the first signs, all verify; required
	Param          string         // query parameter and cookie; empty: "sig"
	TrustedProxies []netip.Prefix // whose X-Forwarded-For tells the client's address; empty: nobody's
}

// NewSigner returns a signer, or an error that names the invalid field.
func NewSigner(o SignerOptions) (*Signer, error) {
	if len(o.Keys) == 0 {
		return nil, errors.New("cdn: SignerOptions.Keys: want at least one")
	}
	keys := make([]keyring.Key, len(o.Keys))
	for i, k := range o.Keys {
		keys[i] = keyring.Key{ID: k.ID, Secret: k.Secret}
	}
	ring, err := keyring.New(keys...)
	if err != nil {
		return nil, fmt.Errorf("cdn: SignerOptions.Keys: %w", err)
	}
	if o.Param == "" {
		o.Param = "sig"
	}
	if !isToken(o.Param) {
		return nil, fmt.Errorf("cdn: SignerOptions.Param %q: want a token", o.Param)
	}
	return &Signer{ring, o}, nil
}

const signPurpose = "cdn url"

// Sign returns u with a signature in its query. The rest of the query is signed too, unless the grant is for a prefix.
func (s *Signer) Sign(u *url.URL, g Grant) (string, error) {
	token, err := s.token(u.EscapedPath(), u.RawQuery, g)
	if err != nil {
		return "", err
	}
	out := *u
	if out.RawQuery != "" {
		out.RawQuery += "&"
	}
	out.RawQuery += s.o.Param + "=" + token
	return out.String(), nil
}

// Cookie returns a cookie that opens a prefix; the grant's Prefix is required.
func (s *Signer) Cookie(g Grant) (*http.Cookie, error) {
	if g.Prefix == "" {
		return nil, errors.New("cdn: Grant.Prefix: required for a cookie")
	}
	token, err := s.token("", "", g)
	if err != nil {
		return nil, err
	}
	return &http.Cookie{Name: s.o.Param, Value: token, Path: "/", Expires: g.Until, HttpOnly: true,
		SameSite: http.SameSiteLaxMode}, nil
}

// token is base64url(until u64 | network length u8 | network 16 or 0 | prefix) signed together with what it is for.
func (s *Signer) token(path, query string, g Grant) (string, error) {
	if g.Until.IsZero() {
		return "", errors.New("cdn: Grant.Until: required")
	}
	if g.Prefix != "" && g.Prefix[0] != '/' {
		return "", fmt.Errorf("cdn: Grant.Prefix %q: want a path", g.Prefix)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(g.Until.Unix()))
	if g.Client.IsValid() {
		p := g.Client.Masked()
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		a := p.Addr().As16()
		b = append(append(b, byte(bits)), a[:]...)
	} else {
		b = append(b, 255)
	}
	b = append(b, g.Prefix...)
	id, mac := s.ring.MAC(nil, signPurpose, s.signed(b, path, query)...)
	return id + "." + base64.RawURLEncoding.EncodeToString(b) + "." + base64.RawURLEncoding.EncodeToString(mac), nil
}

// signed is what the HMAC covers: the grant and, when it is for one URL, that.
func (s *Signer) signed(grant []byte, path, query string) [][]byte {
	if len(grant) > 9 && (grant[8] == 255 || len(grant) > 25) {
		return [][]byte{grant}
	}
	return [][]byte{grant, []byte(path), []byte(query)}
}

// Verify checks the signature of a request, in its query or cookie. Errors: ErrNotSigned, ErrBadSigned, ErrExpired.
func (s *Signer) Verify(r *http.Request) error {
	token, rest := cutParam(r.URL.RawQuery, s.o.Param)
	if token == "" {
		c, err := r.Cookie(s.o.Param)
		if err != nil || c.Value == "" {
			return ErrNotSigned
		}
		token, rest = c.Value, r.URL.RawQuery
	}
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return ErrBadSigned
	}
	grant, err := base64.RawURLEncoding.DecodeString(part[1])
	mac, err2 := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil || err2 != nil || len(grant) < 9 || grant[8] != 255 && len(grant) < 25 {
		return ErrBadSigned
	}
	if !s.ring.CheckMAC(signPurpose, part[0], mac, s.signed(grant, r.URL.EscapedPath(), rest)...) {
		return ErrBadSigned
	}
	if time.Now().Unix() >= int64(binary.BigEndian.Uint64(grant)) {
		return ErrExpired
	}
	prefix := string(grant[9:])
	if grant[8] != 255 {
		prefix = string(grant[25:])
		client := clientaddr.Of(r, s.o.TrustedProxies)
		if !client.IsValid() {
			return ErrBadSigned
		}
		net, err := netip.AddrFrom16([16]byte(grant[9:25])).Prefix(int(grant[8]))
		if err != nil || !net.Contains(netip.AddrFrom16(client.As16())) {
			return ErrBadSigned
		}
	}
	// dots would leave the prefix on the way to a file
	if prefix != "" && (!strings.HasPrefix(r.URL.EscapedPath(), prefix) || strings.Contains(r.URL.Path, "/../") ||
		strings.HasSuffix(r.URL.Path, "/..")) {
		return ErrBadSigned
	}
	return nil
}

// Require passes on what is signed, without its signature, so that all who hold one share one object, and answers 403
// to everything else. Put it in front of the cache.
func (s *Signer) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.Verify(r); err != nil {
			w.Header().Set("Cache-Control", "no-store")
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		if _, rest := cutParam(r.URL.RawQuery, s.o.Param); rest != r.URL.RawQuery {
			r2 := *r
			u := *r.URL
			u.RawQuery = rest
			r2.URL, r2.RequestURI = &u, u.RequestURI()
			r = &r2
		}
		next.ServeHTTP(w, r)
	})
}

// cutParam takes the last parameter of a name out of a query, which is where Sign puts it.
func cutParam(query, name string) (value, rest string) {
	at := strings.LastIndex(query, "&"+name+"=")
	switch {
	case at >= 0:
		value, rest = query[at+len(name)+2:], query[:at]
	case strings.HasPrefix(query, name+"="):
		value = query[len(name)+1:]
	default:
		return "", query
	}
	if strings.IndexByte(value, '&') >= 0 {
		return "", query // something was added behind: not ours any more
	}
	return value, rest
}
