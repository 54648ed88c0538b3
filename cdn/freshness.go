package cdn

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"
)

// freshness is when an object may be served (RFC 9111 section 4.2, RFC 5861).
type freshness struct {
	received time.Time
	age      time.Duration // when it was received (section 4.2.3)
	life     time.Duration
	swr, sie time.Duration // stale-while-revalidate, stale-if-error
	noCache  bool          // always revalidate
	strict   bool          // must-revalidate: never stale
}

func (f *freshness) ageAt(now time.Time) time.Duration {
	return f.age + max(0, now.Sub(f.received))
}

// heuristic statuses may be cached without explicit freshness (RFC 9110 section 15.1); 206 is handled elsewhere.
func heuristic(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// understood statuses are those whose caching rules this cache follows (must-understand, RFC 9111 section 5.2.2.3).
func understood(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 404, 405, 410, 414, 500, 501, 502, 503, 504:
		return true
	}
	return false
}

// judge sets the freshness of a response and decides whether it may be stored (RFC 9111 section 3), with the reason
// when it may not. It takes out header fields that must not be reused.
func (c *Cache) judge(o *object, request http.Header, asked, received time.Time) (why string) {
	h := o.header
	d := parseDirectives(h["Cache-Control"])
	targeted, isTargeted := parseTargeted(h["Cdn-Cache-Control"])
	if isTargeted {
		d = targeted
	}
	date, ok := parseDate(h["Date"])
	if !ok {
		date = received
		h["Date"] = []string{received.UTC().Format(http.TimeFormat)}
	}
	var said time.Duration
	if a := h["Age"]; len(a) > 0 {
		first, _, _ := strings.Cut(a[0], ",")
		said, _ = parseSeconds(strings.TrimSpace(first))
	}
	f := freshness{received: received, swr: c.o.StaleWhileRevalidate, sie: c.o.StaleIfError, life: -1}
	f.age = max(0, received.Sub(date), said+received.Sub(asked))
	f.noCache = d.noCache
	f.strict = d.mustRevalidate || d.sMaxAge >= 0 && !isTargeted
	explicit := true
	switch {
	case d.sMaxAge >= 0:
		f.life = d.sMaxAge
	case d.maxAge >= 0:
		f.life = d.maxAge
	case h["Expires"] != nil && !isTargeted:
		f.life = 0 // what is not a date has passed
		if at, ok := parseDate(h["Expires"]); ok {
			f.life = max(0, at.Sub(date))
		}
	default:
		explicit = false
		// An answer to somebody known may be about him: it is kept only when the origin says so.
		anonymous := request["Cookie"] == nil && request["Authorization"] == nil
		if lm, ok := parseDate(h["Last-Modified"]); ok && (heuristic(o.status) && anonymous || d.public) {
			f.life = max(0, min(date.Sub(lm)/10, c.o.HeuristicMax))
		}
	}
	if d.swr >= 0 {
		f.swr = d.swr
	}
	if d.sie >= 0 {
		f.sie = d.sie
	}
	for _, field := range d.noCacheFields {
		delete(h, field)
	}
	o.freshness = f

	if parseDirectives(request["Cache-Control"]).noStore {
		return "request-no-store"
	}
	if d.noStore && !(d.mustUnderstand && understood(o.status)) {
		return "no-store"
	}
	if d.private {
		return "private"
	}
	if blamesRequest(o.status, request) {
		return "request-oversize"
	}
	if request["Authorization"] != nil && !d.public && !d.mustRevalidate && d.sMaxAge < 0 && !isTargeted {
		return "authorization"
	}
	if h["Set-Cookie"] != nil && !c.o.StoreSetCookie {
		if !d.public && d.sMaxAge < 0 && !isTargeted {
			return "set-cookie"
		}
		o.cookies = h["Set-Cookie"]
		delete(h, "Set-Cookie")
	}
	o.vary = o.vary[:0:0]
	for _, v := range h["Vary"] {
		for name := range strings.SplitSeq(v, ",") {
			switch name = strings.TrimSpace(name); name {
			case "":
			case "*":
				return "vary-star"
			default:
				o.vary = append(o.vary, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
	slices.Sort(o.vary)
	o.vary = slices.Compact(o.vary)
	if len(o.vary) > 32 {
		return "vary-long"
	}
	o.selectors = selectorsOf(nil, o.vary, request)
	if o.status == http.StatusPartialContent || o.status == http.StatusNotModified || o.status < 200 {
		return "status"
	}
	if !explicit && !heuristic(o.status) && !d.public {
		return "no-freshness"
	}
	if f.life < 0 && h["Etag"] == nil && h["Last-Modified"] == nil {
		return "no-validator"
	}
	return ""
}

// verdict on a stored object for a request (RFC 9111 section 4).
type use uint8

const (
	useFresh  use = iota // serve it
	useSWR               // serve it and refresh it meanwhile
	useAsk               // ask the origin first
	useMaxAge            // fresh for others, but the client wants it newer
)

func (c *Cache) usable(o *object, ask *directives, now time.Time) use {
	age := o.ageAt(now)
	fresh := o.life > age && !o.noCache && !o.soft.Load()
	if ask != nil && !c.o.IgnoreRequest {
		switch {
		case ask.noCache, ask.maxAge >= 0 && age > ask.maxAge, ask.minFresh >= 0 && o.life-age < ask.minFresh:
			if fresh {
				return useMaxAge
			}
			return useAsk
		case !fresh && !o.noCache && !o.strict && !o.soft.Load() && o.life >= 0 &&
			(ask.anyStale || ask.maxStale >= 0 && age-o.life <= ask.maxStale):
			return useFresh
		}
	}
	if fresh {
		return useFresh
	}
	if !o.noCache && !o.strict && o.swr > 0 && o.life >= 0 && age-o.life <= o.swr {
		return useSWR
	}
	return useAsk
}

// rescue is whether a stale object may serve because the origin failed (RFC 5861 section 4).
func (o *object) rescue(now time.Time) bool {
	return o != nil && !o.noCache && !o.strict && o.ageAt(now)-max(o.life, 0) <= o.sie
}
