package metrics

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// LogOptions configure a log handler. The zero value adds ids and redacts.
type LogOptions struct {
	// Redact lists keys whose values are replaced, wherever they stand. Nil means password, token, secret, authorization
	// and cookie. Keys are compared without case.
	Redact []string
	// Sample keeps this share of the records below Warn; warnings and errors are always kept. Zero means all.
	Sample float64
	// Keep is how many of the latest records Recent returns. Zero means 500.
	Keep int
	// Groups is how many different errors are told apart; further ones are counted under "other". Zero means 200.
	Groups int
}

// LogHandler is a slog.Handler that adds what the context knows (request, trace, user and session ids), redacts, samples,
// groups errors by message, keeps the latest records for the dashboard, and hands the rest to another handler.
type LogHandler struct {
	next slog.Handler
	s    *logState
	// prefix and attrs are those of WithGroup and WithAttrs, for the kept records.
	prefix string
	attrs  []slog.Attr
}

type logState struct {
	o      LogOptions
	redact map[string]bool

	mu     sync.Mutex // guards what follows
	recent []LogRecord
	at     int
	groups map[string]*ErrorGroup
}

// LogRecord is a kept record.
type LogRecord struct {
	At      time.Time         `json:"at"`
	Level   string            `json:"level"`
	Message string            `json:"message"`
	Attrs   map[string]string `json:"attrs,omitempty"`
}

// ErrorGroup counts the records of level Error with the same message.
type ErrorGroup struct {
	Message     string    `json:"message"`
	Count       int       `json:"count"`
	First, Last time.Time `json:"-"`
	Example     string    `json:"example,omitempty"` // its "err" attribute
}

// NewLogHandler wraps next.
func NewLogHandler(next slog.Handler, o LogOptions) *LogHandler {
	if o.Redact == nil {
		o.Redact = []string{"password", "token", "secret", "authorization", "cookie"}
	}
	if o.Keep <= 0 {
		o.Keep = 500
	}
	if o.Groups <= 0 {
		o.Groups = 200
	}
	s := &logState{o: o, redact: map[string]bool{}, groups: map[string]*ErrorGroup{}}
	for _, k := range o.Redact {
		s.redact[strings.ToLower(k)] = true
	}
	return &LogHandler{next: next, s: s}
}

// Enabled asks the wrapped handler.
func (h *LogHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *LogHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn && h.s.o.Sample > 0 && rand.Float64() >= h.s.o.Sample {
		return nil
	}
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(h.s.clean(a))
		return true
	})
	if ids := idsFrom(ctx); ids != nil {
		out.AddAttrs(ids.attrs()...)
	}
	h.s.keep(out, h.prefix, h.attrs)
	return h.next.Handle(ctx, out)
}

func (s *logState) clean(a slog.Attr) slog.Attr {
	if s.redact[strings.ToLower(a.Key)] {
		return slog.String(a.Key, "[redacted]")
	}
	a.Value = a.Value.Resolve()
	if a.Value.Kind() == slog.KindGroup {
		var in []any
		for _, g := range a.Value.Group() {
			in = append(in, s.clean(g))
		}
		return slog.Group(a.Key, in...)
	}
	return a
}

func (s *logState) keep(r slog.Record, prefix string, more []slog.Attr) {
	rec := LogRecord{At: r.Time, Level: r.Level.String(), Message: r.Message, Attrs: map[string]string{}}
	var flatten func(prefix string, a slog.Attr)
	flatten = func(prefix string, a slog.Attr) {
		if a.Value.Kind() == slog.KindGroup {
			for _, g := range a.Value.Group() {
				flatten(prefix+a.Key+".", g)
			}
			return
		}
		rec.Attrs[prefix+a.Key] = a.Value.String()
	}
	for _, a := range more {
		flatten("", a)
	}
	r.Attrs(func(a slog.Attr) bool { flatten(prefix, a); return true })

	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.recent) < s.o.Keep {
		s.recent = append(s.recent, rec)
	} else {
		s.recent[s.at%s.o.Keep] = rec
	}
	s.at++
	if r.Level < slog.LevelError {
		return
	}
	g := s.groups[r.Message]
	if g == nil {
		key := r.Message
		if len(s.groups) >= s.o.Groups {
			key = "other"
		}
		if g = s.groups[key]; g == nil {
			g = &ErrorGroup{Message: key, First: r.Time}
			s.groups[key] = g
		}
	}
	g.Count++
	g.Last = r.Time
	g.Example = rec.Attrs["err"]
}

// WithAttrs implements slog.Handler.
func (h *LogHandler) WithAttrs(as []slog.Attr) slog.Handler {
	n := *h
	clean := make([]slog.Attr, len(as))
	n.attrs = append([]slog.Attr(nil), h.attrs...)
	for i, a := range as {
		clean[i] = h.s.clean(a)
		n.attrs = append(n.attrs, slog.Attr{Key: h.prefix + clean[i].Key, Value: clean[i].Value})
	}
	n.next = h.next.WithAttrs(clean)
	return &n
}

// WithGroup implements slog.Handler.
func (h *LogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.prefix += name + "."
	n.next = h.next.WithGroup(name)
	return &n
}

// Recent returns the latest records, oldest first.
func (h *LogHandler) Recent() []LogRecord {
	s := h.s
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]LogRecord, 0, len(s.recent))
	if len(s.recent) == s.o.Keep {
		out = append(out, s.recent[s.at%s.o.Keep:]...)
		return append(out, s.recent[:s.at%s.o.Keep]...)
	}
	return append(out, s.recent...)
}

// Errors returns the error groups.
func (h *LogHandler) Errors() []ErrorGroup {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	out := make([]ErrorGroup, 0, len(h.s.groups))
	for _, g := range h.s.groups {
		out = append(out, *g)
	}
	return out
}
