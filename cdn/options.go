package cdn

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// ErrClosed is returned after Close.
var ErrClosed = errors.New("cdn: closed")

// Options configure a [Cache]. The zero value of every field is a good default.
type Options struct {
	MaxBytes int64 // memory for objects, headers included; 0: 64 MiB
	// largest object kept as a whole; larger ones are kept in slices; 0: the smaller of MaxBytes/8 and 64 MiB
	MaxObject int64

	// SliceBytes is the size of the slices of an object that is larger than MaxObject: they are fetched by ranges as
	// clients want them, and kept and evicted each for itself. The origin must answer ranges and give a strong ETag;
	// else such objects pass through. 0: the smaller of MaxObject and 1 MiB; negative: they always pass through.
	SliceBytes int64

	Disk DiskOptions // second tier; off unless Dir is set

	// how long a stale object may serve when the origin fails and says nothing itself; 0: 1 minute; negative: never
	StaleIfError time.Duration
	// how long a stale object may serve while it is refreshed, when the origin says nothing itself; 0: never
	StaleWhileRevalidate time.Duration
	// cap of heuristic freshness, a tenth of the age (RFC 9111 section 4.2.2); 0: 24 h; negative: no heuristics
	HeuristicMax time.Duration
	// how long it is remembered that a key can't be cached, so that its requests are not held; 0: 10 s; negative: not
	// at all
	HitForMiss time.Duration
	// keep responses with Set-Cookie whenever RFC 9111 allows, cookie and all; default: only with public, s-maxage or
	// CDN-Cache-Control, and the cookie goes to the first client alone
	StoreSetCookie bool
	// let a stored Content-Language answer for every Accept-Language that prefers it; for origins that choose by
	// language alone
	VaryLanguage  bool
	IgnoreRequest bool // ignore Cache-Control of requests, except no-store and only-if-cached
	// send text that the origin sends plain as gzip to those who take it; kept beside the plain form from its second
	// request on
	Compress bool
	// response headers with surrogate keys, separated by spaces or commas, not passed on; nil: Surrogate-Key and
	// Cache-Tag
	Tags []string
	Name string  // in Cache-Status and CDN-Loop, a token; empty: "tierkit"
	Key  KeyFunc // nil: KeyURL
	// request fields that fills pass on although they are part of no key, out of those that are dropped otherwise:
	// X-Forwarded-*, X-Original-*, methods in fields and their like; make the key tell them apart, or one client shapes
	// what others get
	Unkeyed     []string
	MaxVariants int // per URL; 0: 64
	// memory for the objects of one host, so that none crowds out the others; 0: no limit but MaxBytes
	MaxHostBytes int64
	// fetches from one origin that wait for its answer at a time: after a purge of everything the others wait their
	// turn, and stale objects that may be served are; 0: 256; negative: no limit
	MaxFills    int
	FillTimeout time.Duration // longest fetch of one object; 0: 5 minutes
	Hooks       *Hooks
}

// DiskOptions of the second tier.
type DiskOptions struct {
	Dir      string // created when missing; one cache per directory
	MaxBytes int64  // 0: 1 GiB
	// bodies of at least this many bytes are served from disk through sendfile instead of being read into memory; 0:
	// 256 KiB; negative: none
	InPlace int64
	// do not fsync purges: a crash of the machine (not of the process) may then bring a purged object back
	NoSync bool
}

// KeyFunc appends the cache key of a request to dst, an absolute URL or something like one, and returns it. Two
// requests with one key share an object: whatever the origin's answer depends on must be part of the key or of Vary.
type KeyFunc func(dst []byte, r *http.Request) []byte

// KeyURL is the default key: scheme, host, path as it was escaped, and query.
func KeyURL(dst []byte, r *http.Request) []byte {
	scheme, port := "http://", ":80"
	if r.TLS != nil {
		scheme, port = "https://", ":443"
	}
	dst = append(dst, scheme...)
	host := strings.TrimSuffix(r.Host, port)
	for i := range len(host) {
		c := host[i]
		if c-'A' < 26 {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	if p := r.URL.EscapedPath(); p == "" {
		dst = append(dst, '/')
	} else {
		dst = append(dst, p...)
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		dst = append(append(dst, '?'), r.URL.RawQuery...)
	}
	return dst
}

// ProxyOptions of an edge in front of an origin.
type ProxyOptions struct {
	Transport http.RoundTripper // nil: a transport of its own without compression; an lb RoundTripper fits
	Fallbacks []string          // further origins, tried in order when one can't be reached
	KeepHost  bool              // send the client's Host to the origin; default: the origin's
	Timeout   time.Duration     // until the origin's header, of the transport made here; 0: 30 s
	// networks whose X-Forwarded-For is passed on and added to (an edge in front of this shield); empty: nobody's
	TrustedProxies []netip.Prefix
}

func (o Options) withDefaults() (Options, error) {
	def := func(d *time.Duration, zero time.Duration) {
		if *d == 0 {
			*d = zero
		} else if *d < 0 {
			*d = 0
		}
	}
	if o.MaxBytes < 0 || o.MaxObject < 0 || o.MaxVariants < 0 || o.MaxHostBytes < 0 || o.FillTimeout < 0 ||
		o.Disk.MaxBytes < 0 {
		return o, errors.New("cdn: Options: MaxBytes, MaxObject, MaxVariants, MaxHostBytes, FillTimeout and Disk.MaxBytes: want 0 or more")
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 20
	}
	if o.MaxObject == 0 {
		o.MaxObject = min(o.MaxBytes/8, 64<<20)
	}
	if o.MaxObject > o.MaxBytes/2 {
		return o, fmt.Errorf("cdn: Options.MaxObject %d: want at most half of MaxBytes", o.MaxObject)
	}
	if o.MaxHostBytes > 0 && o.MaxHostBytes < o.MaxObject {
		return o, fmt.Errorf("cdn: Options.MaxHostBytes %d: want at least MaxObject, %d", o.MaxHostBytes, o.MaxObject)
	}
	if o.MaxFills == 0 {
		o.MaxFills = 256
	}
	if o.Disk.MaxBytes == 0 {
		o.Disk.MaxBytes = 1 << 30
	}
	if o.Disk.InPlace == 0 {
		o.Disk.InPlace = 256 << 10
	} else if o.Disk.InPlace < 0 {
		o.Disk.InPlace = math.MaxInt64
	}
	if o.SliceBytes == 0 {
		o.SliceBytes = min(1<<20, o.MaxObject)
	}
	if o.SliceBytes > 0 && (o.SliceBytes < 4<<10 && o.SliceBytes < o.MaxObject || o.SliceBytes > o.MaxObject) {
		return o, fmt.Errorf("cdn: Options.SliceBytes %d: want 4096 to MaxObject, %d", o.SliceBytes, o.MaxObject)
	}
	def(&o.StaleIfError, time.Minute)
	def(&o.StaleWhileRevalidate, 0)
	def(&o.HeuristicMax, 24*time.Hour)
	def(&o.HitForMiss, 10*time.Second)
	def(&o.FillTimeout, 5*time.Minute)
	if o.Tags == nil {
		o.Tags = []string{"Surrogate-Key", "Cache-Tag"}
	}
	tags := make([]string, len(o.Tags))
	for i, t := range o.Tags {
		tags[i] = http.CanonicalHeaderKey(t)
	}
	o.Tags = tags
	if o.Name == "" {
		o.Name = "tierkit"
	}
	if !isToken(o.Name) {
		return o, fmt.Errorf("cdn: Options.Name %q: want a token", o.Name)
	}
	if o.Key == nil {
		o.Key = KeyURL
	}
	if o.MaxVariants == 0 {
		o.MaxVariants = 64
	}
	return o, nil
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' ||
			c == '*') {
			return false
		}
	}
	return s != "" && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
}

// Outcome of one request.
type Outcome uint8

const (
	Hit         Outcome = iota // served from the cache, fresh
	Stale                      // served stale: while revalidating or because the origin failed
	Revalidated                // the origin said 304
	Miss                       // fetched and, if allowed, stored
	Collapsed                  // waited for another request's fetch
	Bypass                     // not cacheable by its request: passed through
	Failed                     // the origin failed and nothing could serve
)

func (o Outcome) String() string {
	return [...]string{"hit", "stale", "revalidated", "miss", "collapsed", "bypass", "error"}[o]
}

// Hooks observe; each func may be nil and must not block.
type Hooks struct {
	// on the request's goroutine, at its end
	Served func(r *http.Request, o Outcome, status int, bytes int64, took time.Duration)
	// an answer of the origin ended
	Filled func(url string, status int, bytes int64, took time.Duration, stored bool)
}

// JoinHooks calls a, then b. Either may be nil.
func JoinHooks(a, b *Hooks) *Hooks {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return &Hooks{
		Served: func(r *http.Request, o Outcome, status int, bytes int64, took time.Duration) {
			for _, h := range []*Hooks{a, b} {
				if h.Served != nil {
					h.Served(r, o, status, bytes, took)
				}
			}
		},
		Filled: func(url string, status int, bytes int64, took time.Duration, stored bool) {
			for _, h := range []*Hooks{a, b} {
				if h.Filled != nil {
					h.Filled(url, status, bytes, took, stored)
				}
			}
		},
	}
}
