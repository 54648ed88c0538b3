package logs

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/tierkit/tierkit/internal/usercode"
	"github.com/tierkit/tierkit/metrics/trace"
)

// HandlerOptions configure a log handler. The zero value adds ids and redacts.
type HandlerOptions struct {
	// Redact lists the words that make a key secret: the value of a key that contains one of them, without case and
	// separators ("apikey" finds X-Api-Key and api_key), is replaced wherever it stands: in attributes, groups,
	// headers, structs, maps, lists, URLs, JSON, and as key=value or key: value in text, the message included. Nil
	// means password, passwd, passphrase, secret, token, authorization, cookie, apikey, accesskey, privatekey,
	// credential, signature, jwt and otp. Numbers and booleans are replaced only where the key is exactly such a word.
	//
	// Whatever the list, text loses passwords in URLs, bearer and basic credentials, cookies, JWTs, private keys in PEM
	// and keys of well-known services. A secret that has neither a telling key nor such a shape is not found, nor one
	// in bytes that are no text, in unexported fields that a String method prints, or split over two values.
	Redact []string
	// Sample keeps this share of the records below Warn; warnings and errors are always kept. Zero means all. The
	// records of one trace or request are kept or dropped together.
	Sample float64
	// Level is the lowest level that is handled, on top of what the wrapped handler wants. It can be changed at any
	// time. Nil makes one of level Info, or of Debug when the wrapped handler wants that.
	Level *slog.LevelVar
	// Server names this process in kept and shipped records. Empty means the host's name.
	Server string
	// Keep is how many of the latest records Recent returns. Zero means 500.
	Keep int
	// Groups is how many different errors are told apart, as in StoreOptions. Zero means 200.
	Groups int
	// Ship also sends the records to a collector. Nil keeps them here.
	Ship *Shipper
	// Attrs adds what else a context knows, such as the ids of another tracing library. It is called by each goroutine
	// that logs; what it panics with becomes the attribute attrs_error. Nil adds nothing.
	Attrs func(context.Context) []slog.Attr
}

// Handler is a slog.Handler that adds what the context knows (request, trace, user and session ids), redacts,
// samples, groups errors, keeps the latest records for the dashboard, ships them, and hands them to another handler.
// All methods are safe for concurrent use.
type Handler struct {
	next slog.Handler
	s    *logState
	// prefix and attrs are those of WithGroup and WithAttrs, for the kept records.
	prefix string
	attrs  []slog.Attr
}

type logState struct {
	o      HandlerOptions
	redact *redactor
	store  *Store
}

// NewHandler wraps next.
func NewHandler(next slog.Handler, o HandlerOptions) *Handler {
	if o.Redact == nil {
		o.Redact = defaultRedact
	}
	if o.Keep <= 0 {
		o.Keep = 500
	}
	if o.Server == "" {
		o.Server, _ = os.Hostname()
	}
	if o.Level == nil {
		o.Level = new(slog.LevelVar)
		if next.Enabled(context.Background(), slog.LevelDebug) {
			o.Level.Set(slog.LevelDebug)
		}
	}
	s := &logState{o: o, redact: newRedactor(o.Redact),
		store: NewStore(StoreOptions{Records: o.Keep, Groups: o.Groups})}
	return &Handler{next: next, s: s}
}

// Enabled implements slog.Handler: the level must be reached, and the wrapped handler want it.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.s.o.Level.Level() && h.next.Enabled(ctx, l)
}

// Level is the lowest level that is handled; set it to see more or less while the program runs.
func (h *Handler) Level() *slog.LevelVar { return h.s.o.Level }

// ServeLevel answers GET with the level and sets it with PUT or POST, from the parameter "level" ("debug", "warn",
// "error+2"). Mount it behind an authorization; the dashboard does.
func (h *Handler) ServeLevel(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut || r.Method == http.MethodPost {
		var l slog.Level
		if err := l.UnmarshalText([]byte(r.FormValue("level"))); err != nil {
			http.Error(w, `parameter "level": want debug, info, warn or error`, http.StatusBadRequest)
			return
		}
		h.s.o.Level.Set(l)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte(h.s.o.Level.Level().String() + "\n"))
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	ids := trace.From(ctx)
	if r.Level < slog.LevelWarn && h.s.o.Sample > 0 && !sampled(ids, h.s.o.Sample) {
		return nil
	}
	out := slog.NewRecord(r.Time, r.Level, h.s.redact.text(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(h.s.redact.attr(a))
		return true
	})
	var known []slog.Attr
	if ids != nil {
		known = ids.Attrs()
	}
	if f := h.s.o.Attrs; f != nil {
		var more []slog.Attr
		if err := usercode.Call(func() { more = f(ctx) }); err != nil {
			more = []slog.Attr{slog.String("attrs_error", err.Error())}
		}
		for _, a := range more {
			known = append(known, h.s.redact.attr(a))
		}
	}
	rec := h.record(out, known)
	out.AddAttrs(known...)
	h.s.store.Add(rec)
	if h.s.o.Ship != nil {
		h.s.o.Ship.Add(rec)
	}
	return h.next.Handle(ctx, out)
}

// sampled decides by the trace or request, so that what is kept can be read from its beginning to its end.
func sampled(ids *trace.IDs, share float64) bool {
	id := ""
	if ids != nil {
		if id = ids.Trace; id == "" {
			id = ids.Request
		}
	}
	if id == "" {
		return rand.Float64() < share
	}
	return float64(xxhash.Sum64String(id)>>11)/(1<<53) < share
}

// record is the kept form: attributes as text, groups as prefixes; what the context knew has none, so that it is found
// by one name.
func (h *Handler) record(r slog.Record, known []slog.Attr) Record {
	rec := Record{At: r.Time, Level: r.Level.String(), Message: r.Message, Server: h.s.o.Server,
		Attrs: make(map[string]string, r.NumAttrs()+len(h.attrs))}
	var flatten func(prefix string, a slog.Attr)
	flatten = func(prefix string, a slog.Attr) {
		if a.Value.Kind() == slog.KindGroup {
			if a.Key != "" { // an inlined group has none
				prefix += a.Key + "."
			}
			for _, g := range a.Value.Group() {
				flatten(prefix, g)
			}
			return
		}
		rec.Attrs[prefix+a.Key] = cut(a.Value.String(), maxText)
	}
	for _, a := range slices.Concat(h.attrs, known) {
		flatten("", a)
	}
	r.Attrs(func(a slog.Attr) bool { flatten(h.prefix, a); return true })
	return rec
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(as []slog.Attr) slog.Handler {
	n := *h
	clean := make([]slog.Attr, len(as))
	n.attrs = append([]slog.Attr(nil), h.attrs...)
	for i, a := range as {
		clean[i] = h.s.redact.attr(a)
		n.attrs = append(n.attrs, slog.Attr{Key: h.prefix + clean[i].Key, Value: clean[i].Value})
	}
	n.next = h.next.WithAttrs(clean)
	return &n
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.prefix += name + "."
	n.next = h.next.WithGroup(name)
	return &n
}

// Recent returns the latest records, oldest first.
func (h *Handler) Recent() []Record { return h.s.store.Recent() }

// Errors returns the error groups, the most frequent first.
func (h *Handler) Errors() []ErrorGroup { return h.s.store.Errors() }

// Store is where the records are kept.
func (h *Handler) Store() *Store { return h.s.store }
