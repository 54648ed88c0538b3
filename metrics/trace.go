package metrics

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/httpwrap"
)

// IDs tell which request, trace, user and session something belongs to.
type IDs struct {
	Request string
	Trace   string // 32 hexadecimal digits (W3C Trace Context)
	Parent  string // 16 hexadecimal digits: the span of the caller
	Sampled bool
	user    atomic.Pointer[string] // set while the request runs, after login
	session atomic.Pointer[string]
}

type idsKey struct{}

func idsFrom(ctx context.Context) *IDs {
	ids, _ := ctx.Value(idsKey{}).(*IDs)
	return ids
}

// WithIDs returns a context whose log records carry the ids.
func WithIDs(ctx context.Context, ids *IDs) context.Context {
	return context.WithValue(ctx, idsKey{}, ids)
}

// FromContext returns the ids of a context, nil when it has none.
func FromContext(ctx context.Context) *IDs { return idsFrom(ctx) }

// SetUser and SetSession name the user and the session for the records that follow. They do nothing without ids.
func SetUser(ctx context.Context, user string) {
	if ids := idsFrom(ctx); ids != nil {
		ids.user.Store(&user)
	}
}

// SetSession names the session; pass a hash, never the cookie itself.
func SetSession(ctx context.Context, session string) {
	if ids := idsFrom(ctx); ids != nil {
		ids.session.Store(&session)
	}
}

func (ids *IDs) attrs() []slog.Attr {
	out := make([]slog.Attr, 0, 4)
	for _, kv := range [...]struct{ k, v string }{{"request_id", ids.Request}, {"trace_id", ids.Trace}} {
		if kv.v != "" {
			out = append(out, slog.String(kv.k, kv.v))
		}
	}
	if u := ids.user.Load(); u != nil {
		out = append(out, slog.String("user_id", *u))
	}
	if s := ids.session.Load(); s != nil {
		out = append(out, slog.String("session_id", *s))
	}
	return out
}

// Traceparent returns the value of the header of that name for a call made on behalf of ids, with a new span
// (W3C Trace Context, section 3.2).
func (ids *IDs) Traceparent() string {
	flags := "00"
	if ids.Sampled {
		flags = "01"
	}
	return "00-" + ids.Trace + "-" + randomHex(8) + "-" + flags
}

// ParseTraceparent reads a traceparent header; ok is false for anything malformed, which starts a new trace.
func ParseTraceparent(h string) (trace, parent string, sampled, ok bool) {
	f := strings.Split(strings.TrimSpace(h), "-")
	if len(f) < 4 || len(f[0]) != 2 || !isHex(f[0]) || f[0] == "ff" || (f[0] == "00" && len(f) != 4) ||
		len(f[1]) != 32 || !isHex(f[1]) || strings.Trim(f[1], "0") == "" ||
		len(f[2]) != 16 || !isHex(f[2]) || strings.Trim(f[2], "0") == "" || len(f[3]) != 2 || !isHex(f[3]) {
		return "", "", false, false
	}
	b, _ := hex.DecodeString(f[3])
	return f[1], f[2], b[0]&1 == 1, true
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// AccessLog gives every request its ids (an incoming traceparent is continued, an X-Request-Id of up to 64 characters
// of [A-Za-z0-9_-] kept) and logs it when it ends: at level Error for 5xx, Warn for 4xx but 404, Info else.
func AccessLog(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ids := newIDs(r.Header.Get("X-Request-Id"), r.Header.Get("Traceparent"))
		w.Header().Set("X-Request-Id", ids.Request)
		ctx := WithIDs(r.Context(), ids)
		ww, start := httpwrap.Wrap(w), time.Now()
		done := false
		defer func() {
			status := ww.Status
			switch {
			case !done && status == 0:
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

// InjectTrace hands the ids of a context to whoever carries work elsewhere, such as the headers of a queue message:
//
//	metrics.InjectTrace(ctx, func(k, v string) { msg.Headers[k] = v })
//
// A context without ids sets nothing.
func InjectTrace(ctx context.Context, set func(key, value string)) {
	ids := idsFrom(ctx)
	if ids == nil {
		return
	}
	if ids.Trace != "" {
		set("traceparent", ids.Traceparent())
	}
	if ids.Request != "" {
		set("x-request-id", ids.Request)
	}
}

// ExtractTrace continues what InjectTrace set: the records of a worker carry the ids of the request that caused its
// job. Malformed values start a new trace.
func ExtractTrace(ctx context.Context, get func(key string) string) context.Context {
	return WithIDs(ctx, newIDs(get("x-request-id"), get("traceparent")))
}

// newIDs accepts a request id of up to 64 characters of [A-Za-z0-9_-] and a traceparent, and makes what is missing.
func newIDs(request, traceparent string) *IDs {
	ids := &IDs{Request: request}
	if request == "" || len(request) > 64 || strings.Trim(request,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		ids.Request = randomHex(8)
	}
	var ok bool
	if ids.Trace, ids.Parent, ids.Sampled, ok = ParseTraceparent(traceparent); !ok {
		ids.Trace = randomHex(16)
	}
	return ids
}
