package logs

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Record is a kept record. Its message and each of its values are cut at 4 KiB, and it has at most 64 attributes with
// 16 KiB.
type Record struct {
	At      time.Time         `json:"at"`
	Level   string            `json:"level"`
	Message string            `json:"message"`
	Server  string            `json:"server,omitempty"`
	Attrs   map[string]string `json:"attrs,omitempty"`
}

// Bounds of a record, so that what a client sends cannot fill the memory.
const (
	maxText  = 4 << 10  // of the message and of each value, in bytes
	maxTotal = 16 << 10 // of all attributes
	maxAttrs = 64
)

// size estimates the memory of a record in bytes.
func (r *Record) size() int64 {
	n := 160 + len(r.Level) + len(r.Message) + len(r.Server)
	for k, v := range r.Attrs {
		n += 48 + len(k) + len(v)
	}
	return int64(n)
}

// bounded cuts what is too long, and says how long it was.
func (r Record) bounded() Record {
	r.Message, r.Server, r.Level = cut(r.Message, maxText), cut(r.Server, 256), cut(r.Level, 32)
	total, fits := 0, len(r.Attrs) <= maxAttrs
	for k, v := range r.Attrs {
		total += len(k) + len(v)
		fits = fits && len(v) <= maxText && len(k) <= 256
	}
	if fits && total <= maxTotal {
		return r
	}
	attrs := make(map[string]string, min(len(r.Attrs), maxAttrs)+1)
	left := maxTotal
	for _, k := range slices.Sorted(maps.Keys(r.Attrs)) {
		key, v := cut(k, 256), cut(r.Attrs[k], maxText)
		if len(attrs) >= maxAttrs || len(key)+len(v) > left {
			attrs["attributes_left_out"] = strconv.Itoa(len(r.Attrs) - len(attrs))
			break
		}
		attrs[key] = v
		left -= len(key) + len(v)
	}
	r.Attrs = attrs
	return r
}

// cut shortens s to about n bytes. The result does not keep the memory of s.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.Clone(strings.ToValidUTF8(s[:n], "")) + "... (" + strconv.Itoa(len(s)) + " bytes)"
}

// ErrorGroup counts the records of level Error whose messages differ in numbers only.
type ErrorGroup struct {
	Message string    `json:"message"` // of the first one
	Count   int       `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Example string    `json:"example,omitempty"` // the latest "err" attribute
	Server  string    `json:"server,omitempty"`  // of the latest
}

// StoreOptions configure a Store. The zero value is ready, but takes nothing from the network.
type StoreOptions struct {
	// Records is how many of the latest are kept. Zero means 100,000.
	Records int
	// Bytes bounds the memory of the records that are kept; the oldest ones go. Zero means 64 MiB.
	Bytes int64
	// Groups is how many different errors are told apart. When there are more, the one that was not seen for longest,
	// at least 10 min, makes room; where there is none, new ones are counted under "other". Zero means 200.
	Groups int
	// Token lets shippers in: they send it as a bearer token. At least 16 bytes. Empty refuses all.
	Token string
	// MaxBody bounds one shipment, uncompressed, in bytes. Zero means 8 MiB.
	MaxBody int64
}

// Store keeps the latest records of one process, or, as the http.Handler that Shippers send to, those of all. All
// methods are safe for concurrent use.
type Store struct {
	o StoreOptions

	mu     sync.Mutex // guards what follows
	kept   []Record   // in the order of arrival, from index head on
	head   int
	bytes  int64 // of the records that are kept
	groups map[string]*ErrorGroup
	seen   map[string]uint64 // the last shipment of each shipper: one that is sent again is not kept twice
}

// NewStore returns an empty store.
func NewStore(o StoreOptions) *Store {
	if o.Records <= 0 {
		o.Records = 100_000
	}
	if o.Bytes <= 0 {
		o.Bytes = 64 << 20
	}
	if o.Groups <= 0 {
		o.Groups = 200
	}
	if o.MaxBody <= 0 {
		o.MaxBody = 8 << 20
	}
	return &Store{o: o, groups: map[string]*ErrorGroup{}, seen: map[string]uint64{}}
}

// Add keeps a record.
func (s *Store) Add(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(r)
}

func (s *Store) add(r Record) {
	r = r.bounded()
	s.kept = append(s.kept, r)
	s.bytes += r.size()
	for len(s.kept)-s.head > s.o.Records || s.bytes > s.o.Bytes && len(s.kept)-s.head > 1 {
		s.bytes -= s.kept[s.head].size()
		s.kept[s.head] = Record{}
		s.head++
	}
	if s.head > 1024 && s.head > len(s.kept)/2 {
		s.kept = append(s.kept[:0], s.kept[s.head:]...)
		clear(s.kept[len(s.kept):cap(s.kept)])
		s.head = 0
	}
	if levelOf(r.Level) >= slog.LevelError {
		s.group(&r)
	}
}

// otherGroup counts the errors that have no group of their own.
const otherGroup = "other"

// groupIdle is how long a group that makes room was not seen.
const groupIdle = 10 * time.Minute

// group counts an error.
func (s *Store) group(r *Record) {
	key, message := withoutNumbers(r.Message), r.Message
	if s.groups[key] == nil && len(s.groups) >= s.o.Groups && !s.makeRoom(r.At) {
		key, message = otherGroup, otherGroup
	}
	g := s.groups[key]
	if g == nil {
		g = &ErrorGroup{Message: message, First: r.At}
		s.groups[key] = g
	}
	g.Count++
	if r.At.Before(g.First) {
		g.First = r.At
	}
	if !r.At.Before(g.Last) {
		g.Last, g.Example, g.Server = r.At, r.Attrs["err"], r.Server
	}
}

// makeRoom removes the group that was not seen for longest, and reports whether there was one.
func (s *Store) makeRoom(now time.Time) bool {
	oldest := ""
	for key, g := range s.groups {
		if key != otherGroup && now.Sub(g.Last) >= groupIdle && (oldest == "" || g.Last.Before(s.groups[oldest].Last)) {
			oldest = key
		}
	}
	if oldest == "" {
		return false
	}
	delete(s.groups, oldest)
	return true
}

// withoutNumbers makes one key of "user 7 not found" and "user 12 not found": each run of digits, and of hexadecimal
// digits that begins with one, becomes "#".
func withoutNumbers(s string) string {
	if !strings.ContainsAny(s, "0123456789") {
		return s
	}
	b := make([]byte, 0, len(s))
	in := false
	for i := range len(s) {
		c := s[i]
		digit := '0' <= c && c <= '9'
		if in && (digit || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			continue
		}
		if in = digit; in {
			c = '#'
		}
		b = append(b, c)
	}
	return string(b)
}

func levelOf(s string) slog.Level {
	var l slog.Level
	if l.UnmarshalText([]byte(s)) != nil {
		return slog.LevelInfo
	}
	return l
}

// Query is what to look for; zero fields ask for nothing.
type Query struct {
	From, To time.Time
	// Level is the lowest: "WARN" finds errors too.
	Level  string
	Server string
	// ID is a request, trace, user or session id.
	ID string
	// Text is looked for in the message and the attributes, without case.
	Text string
	// Limit bounds the answer. Zero means 100, at most 1000.
	Limit int
}

// Search returns what matches, the youngest first. It looks at every record kept, which takes some 10 ms for 100,000.
func (s *Store) Search(q Query) []Record {
	limit := min(cmp.Or(max(q.Limit, 0), 100), 1000)
	lowest := slog.Level(-128)
	if q.Level != "" {
		lowest = levelOf(q.Level)
	}
	text := strings.ToLower(q.Text)
	match := func(r *Record) bool {
		if !q.From.IsZero() && r.At.Before(q.From) || !q.To.IsZero() && r.At.After(q.To) || q.Server != "" &&
			r.Server != q.Server || levelOf(r.Level) < lowest {
			return false
		}
		if q.ID != "" && r.Attrs["request_id"] != q.ID && r.Attrs["trace_id"] != q.ID && r.Attrs["user_id"] != q.ID &&
			r.Attrs["session_id"] != q.ID {
			return false
		}
		if text == "" || strings.Contains(strings.ToLower(r.Message), text) {
			return true
		}
		for k, v := range r.Attrs {
			if strings.Contains(strings.ToLower(k+"="+v), text) {
				return true
			}
		}
		return false
	}
	found := []Record{}
	s.mu.Lock()
	for i := len(s.kept) - 1; i >= s.head && len(found) < limit; i-- { // by arrival; shippers' clocks differ
		if r := &s.kept[i]; match(r) {
			found = append(found, *r)
		}
	}
	s.mu.Unlock()
	slices.SortStableFunc(found, func(a, b Record) int { return b.At.Compare(a.At) })
	return found
}

// Recent returns all that is kept, in the order of arrival.
func (s *Store) Recent() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kept[s.head:])
}

// Servers returns the names of those who have records here.
func (s *Store) Servers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	var out []string
	for i := range s.kept[s.head:] {
		if n := s.kept[s.head+i].Server; !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Errors returns the error groups, the most frequent first.
func (s *Store) Errors() []ErrorGroup {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ErrorGroup, 0, len(s.groups))
	for _, g := range s.groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b ErrorGroup) int {
		return cmp.Or(b.Count-a.Count, cmp.Compare(a.Message, b.Message))
	})
	return out
}

// ServeHTTP takes the shipments of a Shipper: POST, one JSON record a line, compressed or not. A malformed line refuses
// the whole shipment with 400 and its number.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	have, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.o.Token))
	switch {
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", "POST")
		http.Error(w, "POST records here", http.StatusMethodNotAllowed)
		return
	case !ok || len(s.o.Token) < 16 || subtle.ConstantTimeCompare(have[:], want[:]) != 1:
		http.Error(w, "wrong token", http.StatusUnauthorized)
		return
	}
	records, err := s.read(r)
	if err != nil {
		status := http.StatusBadRequest
		if errors.Is(err, errTooLong) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
		return
	}
	shipper, number, _ := strings.Cut(r.Header.Get("X-Shipment"), "/")
	n, _ := strconv.ParseUint(number, 10, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && n <= s.seen[shipper] {
		return
	}
	if n > 0 {
		if len(s.seen) >= 10_000 { // of processes that ended long ago
			clear(s.seen)
		}
		s.seen[shipper] = n
	}
	for _, x := range records {
		s.add(x)
	}
}

var errTooLong = errors.New("shipment is too long")

func (s *Store) read(r *http.Request) (records []Record, err error) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			return nil, err
		}
	}
	all, err := io.ReadAll(io.LimitReader(body, s.o.MaxBody+1))
	if err != nil {
		return nil, err
	}
	if int64(len(all)) > s.o.MaxBody {
		return nil, errTooLong
	}
	lines := bufio.NewScanner(bytes.NewReader(all))
	lines.Buffer(nil, len(all)+1)
	for i := 1; lines.Scan(); i++ {
		var x Record
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			return nil, fmt.Errorf("line %d: %w", i, err)
		}
		records = append(records, x)
	}
	return records, lines.Err()
}
