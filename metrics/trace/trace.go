package trace

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
	"github.com/tierkit/tierkit/metrics/internal/ids"
)

// IDs tell which request, trace, user and session something belongs to.
type IDs = ids.IDs

// With returns a context whose log records carry the ids.
func With(ctx context.Context, id *IDs) context.Context { return ids.With(ctx, id) }

// From returns the ids of a context, nil when it has none.
func From(ctx context.Context) *IDs { return ids.From(ctx) }

// SetUser names the user for the records that follow. It does nothing in a context without ids.
func SetUser(ctx context.Context, user string) {
	if id := ids.From(ctx); id != nil {
		id.SetUser(user)
	}
}

// SetSession names the session; pass a hash, never the cookie itself. It does nothing in a context without ids.
func SetSession(ctx context.Context, session string) {
	if id := ids.From(ctx); id != nil {
		id.SetSession(session)
	}
}

// Parse reads a traceparent header; ok is false for anything malformed, which starts a new trace (W3C Trace Context,
// section 3.2).
func Parse(traceparent string) (trace, parent string, sampled, ok bool) {
	return ids.Parse(traceparent)
}

// AccessLog gives every request its ids (an incoming traceparent is continued, an X-Request-Id of up to 64 characters
// of [A-Za-z0-9_-] kept) and logs it when it ends: at level Error for 5xx, Warn for 4xx but 404, Info else.
func AccessLog(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := newIDs(r.Header.Get("X-Request-Id"), r.Header.Get("Traceparent"))
		w.Header().Set("X-Request-Id", id.Request)
		ctx := With(r.Context(), id)
		ww, start := httpwrap.Wrap(w), time.Now()
		done := false
		defer func() {
			status := ww.Status
			switch {
			case !done: // a panic, also after the header
				status = http.StatusInternalServerError
			case status == 0:
				status = http.StatusOK
			}
			level := slog.LevelInfo
			switch {
			case status >= 500:
				level = slog.LevelError
			case status >= 400 && status != http.StatusNotFound:
				level = slog.LevelWarn
			}
			log.LogAttrs(ctx, level, "request", slog.String("method", r.Method), slog.String("path", r.URL.Path),
				slog.Int("status", status), slog.Int64("bytes", ww.Written), slog.Duration("took", time.Since(start)))
		}()
		next.ServeHTTP(ww, r.WithContext(ctx))
		done = true
	})
}

// Inject hands the ids of a context to whoever carries work elsewhere, such as the headers of a queue message:
//
//	trace.Inject(ctx, func(k, v string) { msg.Headers[k] = v })
//
// A context without ids sets nothing.
func Inject(ctx context.Context, set func(key, value string)) {
	id := ids.From(ctx)
	if id == nil {
		return
	}
	if id.Trace != "" {
		set("traceparent", id.Traceparent())
	}
	if id.Request != "" {
		set("x-request-id", id.Request)
	}
}

// Extract continues what Inject set: the records of a worker carry the ids of the request that caused its
// job. Malformed values start a new trace.
func Extract(ctx context.Context, get func(key string) string) context.Context {
	return With(ctx, newIDs(get("x-request-id"), get("traceparent")))
}

// newIDs accepts a request id of up to 64 characters of [A-Za-z0-9_-] and a traceparent, and makes what is missing.
func newIDs(request, traceparent string) *IDs {
	id := &IDs{Request: request}
	if request == "" || len(request) > 64 || strings.Trim(request,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		id.Request = ids.RandomHex(8)
	}
	var ok bool
	if id.Trace, id.Parent, id.Sampled, ok = Parse(traceparent); !ok {
		id.Trace = ids.RandomHex(16)
	}
	return id
}
