// Package cookie keeps a visitor's data in an encrypted cookie, with no store at all.
//
// What that costs: nothing can be revoked before it expires; of two requests at the same time the last one to answer
// wins, and the other's change is lost; the data travels with every request and has at most about 3 kB. For logins,
// carts and anything that must not be lost or must end at once use package session.
//
//	jar, err := cookie.New[Prefs](keys, cookie.Options{})
//	...
//	p, err := jar.Load(r)   // the zero Prefs when there is none
//	p.Theme = "dark"
//	err = jar.Save(w, p)    // before the header goes out
package cookie

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tierkit/tierkit/internal/keyring"
)

// Errors.
var (
	// ErrTooLarge: browsers drop cookies of more than 4096 bytes silently; nothing was set.
	ErrTooLarge = errors.New("cookie: data does not fit in a cookie")
	// ErrInvalid: a cookie is there, but it was not made by any of the keys, or has expired, or its data does not
	// decode.
	ErrInvalid = errors.New("cookie: invalid")
)

// maxCookie is what browsers keep: name, value and attributes (RFC 6265 section 6.1).
const maxCookie = 4096

// Key encrypts. Secret has at least 32 random bytes; ID is 1 to 64 letters, digits, - or _.
type Key struct {
	ID     string
	Secret []byte
}

// Options configure a [Jar]. The zero value is a good default for production over https.
type Options struct {
	// Name of the cookie. Default "__Host-data" ("data" with Insecure).
	Name string
	// TTL is how long the data lives; it is checked here, whatever the browser does. Default 30 days.
	TTL time.Duration
	// Session makes the cookie end with the browser's session as well.
	Session bool
	// SameSite of the cookie. Default Lax.
	SameSite http.SameSite
	// Insecure is for development over plain http: the cookie is neither Secure nor __Host-.
	Insecure bool
}

// Jar loads and saves cookies of one kind. It is safe for concurrent use.
type Jar[T any] struct {
	ring *keyring.Ring
	o    Options
}

// New returns a jar; the first key encrypts, all decrypt.
func New[T any](keys []Key, o Options) (*Jar[T], error) {
	if len(keys) == 0 {
		return nil, errors.New("cookie: no keys")
	}
	if o.Name == "" {
		o.Name = "__Host-data"
		if o.Insecure {
			o.Name = "data"
		}
	}
	if err := (&http.Cookie{Name: o.Name, Value: "x"}).Valid(); err != nil {
		return nil, fmt.Errorf("cookie: Options.Name: %w", err)
	}
	if o.TTL == 0 {
		o.TTL = 30 * 24 * time.Hour
	}
	if o.TTL < time.Second {
		return nil, fmt.Errorf("cookie: Options.TTL is %v, must be at least 1s", o.TTL)
	}
	if o.SameSite == 0 {
		o.SameSite = http.SameSiteLaxMode
	}
	if o.SameSite == http.SameSiteNoneMode && o.Insecure {
		return nil, errors.New("cookie: Options.SameSite is None, which needs a Secure cookie")
	}
	ks := make([]keyring.Key, len(keys))
	for i, k := range keys {
		ks[i] = keyring.Key{ID: k.ID, Secret: k.Secret}
	}
	ring, err := keyring.New(ks...)
	if err != nil {
		return nil, fmt.Errorf("cookie: %w", err)
	}
	return &Jar[T]{ring, o}, nil
}

// Rotate makes k the encrypting key; older keys go on decrypting until Drop.
func (j *Jar[T]) Rotate(k Key) error { return j.ring.Rotate(keyring.Key{ID: k.ID, Secret: k.Secret}) }

// Drop forgets a key: its cookies are invalid from now on.
func (j *Jar[T]) Drop(id string) error { return j.ring.Drop(id) }

const purpose = "tierkit session cookie"

var b64 = base64.RawURLEncoding.Strict()

// Load returns the request's data: the zero T without an error when there is no cookie, with ErrInvalid when it is of
// no use.
func (j *Jar[T]) Load(r *http.Request) (data T, err error) {
	c, err := r.Cookie(j.o.Name)
	if err != nil {
		return data, nil
	}
	if len(c.Value) > maxCookie {
		return data, fmt.Errorf("%w: %d bytes", ErrInvalid, len(c.Value))
	}
	sealed, err := b64.DecodeString(c.Value)
	if err != nil {
		return data, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	// The cookie's name is authenticated with it, so that a cookie of another name is not taken for this one.
	plain, err := j.ring.Unseal(purpose, sealed, []byte(j.o.Name))
	if err != nil || len(plain) < 8 {
		return data, fmt.Errorf("%w: not made by a known key", ErrInvalid)
	}
	if end := time.Unix(int64(binary.LittleEndian.Uint64(plain)), 0); !time.Now().Before(end) {
		return data, fmt.Errorf("%w: expired", ErrInvalid)
	}
	if err := json.Unmarshal(plain[8:], &data); err != nil {
		var zero T
		return zero, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return data, nil
}

// Save sets the cookie, replacing one that this response sets already. It must be called before the header goes out.
// ErrTooLarge: nothing was set.
func (j *Jar[T]) Save(w http.ResponseWriter, data T) error {
	body, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("cookie: encode: %w", err)
	}
	// Rounded up: the data lives at least TTL.
	plain := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+len(body)),
		uint64(time.Now().Add(j.o.TTL+time.Second-1).Unix()))
	value := b64.EncodeToString(j.ring.Seal(purpose, append(plain, body...), []byte(j.o.Name)))
	age := int((j.o.TTL + time.Second - 1) / time.Second)
	if j.o.Session {
		age = 0
	}
	return j.set(w, value, age)
}

// Clear removes the cookie from the browser. A copy that somebody kept stays valid until it expires.
func (j *Jar[T]) Clear(w http.ResponseWriter) { _ = j.set(w, "", -1) }

func (j *Jar[T]) set(w http.ResponseWriter, value string, age int) error {
	c := http.Cookie{Name: j.o.Name, Value: value, Path: "/", MaxAge: age, Secure: !j.o.Insecure, HttpOnly: true,
		SameSite: j.o.SameSite}
	line := c.String()
	if len(line) > maxCookie {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(line), maxCookie)
	}
	h := w.Header()
	kept := h["Set-Cookie"][:0:0]
	for _, l := range h["Set-Cookie"] {
		if len(l) <= len(j.o.Name) || l[:len(j.o.Name)+1] != j.o.Name+"=" {
			kept = append(kept, l)
		}
	}
	h["Set-Cookie"] = append(kept, line)
	return nil
}
