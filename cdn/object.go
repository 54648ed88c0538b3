package cdn

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/evict"
)

// object is one stored response. Once published only its atomics change; a 304 makes a new object that shares the body.
type object struct {
	key    string // an absolute URL, normally
	hash   uint64 // of key
	host   *host
	status int
	header http.Header // as it is sent, without Age, Cache-Status and the tags
	body   *body
	length int64  // of the body; -1 while it is being filled and not known
	slices string // what tells apart the slices of this object, which has no body itself; "": it has one
	etag   string
	tags   []string

	vary      []string // canonical names, sorted
	selectors string   // the request's values for them, normalized
	cookies   []string // Set-Cookie of the answer, for the first client alone

	freshness
	soft   atomic.Bool            // purged softly: stale from now on
	next   atomic.Pointer[object] // took its place: the same content with more known about it
	gone   atomic.Bool            // purged or replaced: not to be used or stored any more
	purged atomic.Bool            // gone by a purge
	wanted atomic.Bool            // was asked for again: worth a place on disk
	onDisk atomic.Uint32
	shown  atomic.Pointer[shown]

	gz      atomic.Pointer[object] // its compressed form
	packing atomic.Bool            // which is being made

	state evict.State
	size  int64
	held  atomic.Bool // the policy holds it; changed under Cache.mu
}

const (
	diskNo      = iota
	diskQueued  // a writer has it
	diskWritten // it stands there
)

// EvictState, Fingerprint and Weight make an object a node of the eviction policy.
func (o *object) EvictState() *evict.State { return &o.state }

// Fingerprint is a hash of the key and the variant.
func (o *object) Fingerprint() uint32 {
	return uint32(o.hash>>32) ^ uint32(len(o.selectors))*0x9e3779b1
}

// Weight is the bytes that the object takes.
func (o *object) Weight() int64 { return o.size }

// overhead is about what an object costs beside its strings: the structures here, in the index and in the policy.
// It is measured: see TestBudgetIsTheHeap.
const overhead = 844

func (o *object) weigh() {
	n := int64(overhead + len(o.key) + len(o.selectors))
	for k, vs := range o.header {
		n += int64(len(k)) + 48
		for _, v := range vs {
			n += int64(len(v)) + 16
		}
	}
	for _, t := range o.tags {
		n += int64(len(t)) + 64
	}
	o.size = n + o.body.memory()
}

// shown are the header values that change as an object ages, made once a second.
type shown struct {
	second      int64
	age, status []string
}

func (c *Cache) showHit(o *object, now time.Time) *shown {
	age := int64(o.ageAt(now) / time.Second)
	s := o.shown.Load()
	if s == nil || s.second != age {
		left := int64(o.life/time.Second) - age
		s = &shown{age, []string{strconv.FormatInt(age, 10)},
			[]string{c.o.Name + "; hit; ttl=" + strconv.FormatInt(left, 10)}}
		if up := o.header["Cache-Status"]; len(up) > 0 {
			s.status = append(slices.Clone(up), s.status...)
		}
		o.shown.Store(s)
	}
	return s
}

// matches is whether the request selects this variant (RFC 9111 section 4.1).
func (o *object) matches(h http.Header) bool {
	if len(o.vary) == 0 {
		return true
	}
	var buf [256]byte
	return string(appendSelectors(buf[:0], o.vary, h)) == o.selectors
}

// matchesLanguage is matches with one thing more: a variant in the language that the request prefers will do, whatever
// else its Accept-Language lists.
func (o *object) matchesLanguage(h http.Header) bool {
	stored := strings.Split(o.selectors, "\x00")
	if len(stored) != len(o.vary)+1 {
		return false
	}
	for i, name := range o.vary {
		if selectorsOf(nil, o.vary[i:i+1], h)[1:] == stored[i+1] {
			continue
		}
		if in := o.header["Content-Language"]; name != "Accept-Language" || len(in) != 1 ||
			!strings.EqualFold(in[0], preferred(h[name])) {
			return false
		}
	}
	return true
}

// preferred is the one language of an Accept-Language with the highest quality; "" when there is none or several.
func preferred(lines []string) string {
	best, top, n := "", -1.0, 0
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			lang, quality, has := strings.Cut(item, ";")
			q := 1.0
			if has {
				v, _ := strings.CutPrefix(strings.TrimSpace(quality), "q=")
				q, _ = strconv.ParseFloat(v, 64)
			}
			switch lang = strings.TrimSpace(lang); {
			case q > top:
				best, top, n = lang, q, 1
			case q == top:
				n++
			}
		}
	}
	if n != 1 || best == "*" {
		return ""
	}
	return best
}

func selectorsOf(dst []byte, vary []string, h http.Header) string {
	if len(vary) == 0 {
		return ""
	}
	return string(appendSelectors(dst, vary, h))
}

// appendSelectors writes the values of the fields that select a variant. Differences without meaning are taken out:
// lines are joined, blanks dropped, and of the Accept fields letter case and order.
func appendSelectors(dst []byte, vary []string, h http.Header) []byte {
	for _, name := range vary {
		lines, ok := h[name]
		if !ok {
			dst = append(dst, 0, '-')
			continue
		}
		dst = append(dst, 0, '+')
		if len(lines) == 1 && !strings.HasPrefix(name, "Accept") && strings.IndexByte(lines[0], ',') < 0 {
			dst = append(dst, strings.Trim(lines[0], " \t")...)
			continue
		}
		var items []string
		for _, line := range lines {
			for line != "" {
				var item string
				item, line = nextItem(line)
				if item = strings.Trim(item, " \t"); strings.HasPrefix(name, "Accept") {
					item = lower(strings.ReplaceAll(item, " ", ""))
				}
				items = append(items, item)
			}
		}
		if strings.HasPrefix(name, "Accept") {
			slices.Sort(items)
		}
		for i, item := range items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, item...)
		}
	}
	return dst
}

// tagsOf takes the surrogate keys out of a header.
func (c *Cache) tagsOf(h http.Header) (tags []string) {
	for _, name := range c.o.Tags {
		for _, line := range h[name] {
			for _, t := range strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
				if len(tags) < 256 && len(t) <= 1024 {
					tags = append(tags, strings.Clone(t))
				}
			}
		}
		delete(h, name)
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}
