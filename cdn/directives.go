package cdn

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// directives is a parsed Cache-Control (RFC 9111 section 5.2) or CDN-Cache-Control (RFC 9213). Durations are -1 when
// they are absent; present but malformed they are 0, which is the cautious reading.
type directives struct {
	noStore, noCache, private, public, mustRevalidate, mustUnderstand, onlyIfCached, anyStale bool

	maxAge, sMaxAge, minFresh, maxStale, swr, sie time.Duration

	noCacheFields []string // no-cache="a, b": fields that are not to be reused
}

func none() directives {
	return directives{maxAge: -1, sMaxAge: -1, minFresh: -1, maxStale: -1, swr: -1, sie: -1}
}

// parseDirectives reads all lines as one list. Of two values for one directive the smaller counts.
func parseDirectives(lines []string) directives {
	d := none()
	for _, line := range lines {
		for line != "" {
			var item string
			item, line = nextItem(line)
			if item = strings.Trim(item, " \t"); item == "" {
				continue
			}
			k, v, has := strings.Cut(item, "=")
			d.set(lower(k), strings.Trim(v, `"`), has)
		}
	}
	return d
}

func (d *directives) set(k, v string, has bool) {
	lowest := func(to *time.Duration) {
		s, _ := parseSeconds(v)
		if *to < 0 || s < *to {
			*to = s
		}
	}
	switch k {
	case "no-store":
		d.noStore = true
	case "no-cache":
		if v == "" {
			d.noCache = true
			break
		}
		for f := range strings.SplitSeq(v, ",") {
			d.noCacheFields = append(d.noCacheFields, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(f)))
		}
	case "private":
		d.private = true
	case "public":
		d.public = true
	case "must-revalidate", "proxy-revalidate":
		d.mustRevalidate = true
	case "must-understand":
		d.mustUnderstand = true
	case "only-if-cached":
		d.onlyIfCached = true
	case "max-age":
		lowest(&d.maxAge)
	case "s-maxage":
		lowest(&d.sMaxAge)
	case "min-fresh":
		lowest(&d.minFresh)
	case "max-stale":
		if has {
			lowest(&d.maxStale)
		} else {
			d.anyStale = true
		}
	case "stale-while-revalidate":
		if s, ok := parseSeconds(v); ok {
			d.swr = s
		}
	case "stale-if-error":
		if s, ok := parseSeconds(v); ok {
			d.sie = s
		}
	}
}

// nextItem cuts the first element off a comma-separated list; commas within quotes do not separate.
func nextItem(s string) (item, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// parseTargeted reads CDN-Cache-Control as the structured field that it is (RFC 9213 section 2.1): one fault anywhere
// and the whole field is ignored.
func parseTargeted(lines []string) (directives, bool) {
	d := none()
	some := false
	for _, line := range lines {
		for line != "" {
			var item string
			item, line = nextItem(line)
			item = strings.Trim(item, " \t")
			k, v, has := strings.Cut(item, "=")
			if k == "" || has && v == "" {
				return d, false
			}
			k = lower(k)
			for i := range len(k) {
				c := k[i]
				if !(c >= 'a' && c <= 'z' || c == '*' || i > 0 &&
					(c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.')) {
					return d, false
				}
			}
			if k == "max-age" || k == "s-maxage" {
				if _, ok := parseSeconds(v); !ok || len(v) > 15 {
					return d, false
				}
				// the last of equal keys counts
				d.maxAge, d.sMaxAge = replaceOf(k, "max-age", d.maxAge), replaceOf(k, "s-maxage", d.sMaxAge)
			}
			d.set(k, strings.Trim(v, `"`), has)
			some = true
		}
	}
	return d, some
}

func replaceOf(k, name string, old time.Duration) time.Duration {
	if k == name {
		return -1
	}
	return old
}

// parseSeconds reads delta-seconds (RFC 9111 section 1.2.2): digits only; what is too large is 2^31.
func parseSeconds(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > 1<<31 {
		n = 1 << 31
	}
	return time.Duration(n) * time.Second, true
}

// parseDate is strict: what does not come out as it went in is not a date. The name of the day is not compared, since
// many get it wrong and nothing depends on it.
func parseDate(lines []string) (time.Time, bool) {
	if len(lines) != 1 {
		return time.Time{}, false
	}
	if t, err := time.Parse(http.TimeFormat, lines[0]); err == nil && len(lines[0]) == len(http.TimeFormat) &&
		t.Format(http.TimeFormat)[3:] == lines[0][3:] {
		return t, true
	}
	up := strings.ToUpper(lines[0])
	for _, layout := range []string{http.TimeFormat, "Monday, 02-Jan-06 15:04:05 GMT", time.ANSIC} {
		if t, err := time.Parse(layout, up); err == nil && afterDay(strings.ToUpper(t.Format(layout))) == afterDay(up) {
			return t, true
		}
	}
	return time.Time{}, false
}

func afterDay(s string) string {
	if i := strings.IndexAny(s, ", "); i >= 0 {
		return s[i:]
	}
	return s
}

func lower(s string) string {
	for i := range len(s) {
		if s[i]-'A' < 26 {
			return strings.ToLower(s)
		}
	}
	return s
}
