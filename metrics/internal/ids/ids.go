// Package ids holds the ids of a request, for package metrics, which passes the trace on, and package trace, which
// makes them.
package ids

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync/atomic"
)

// IDs tell which request, trace, user and session something belongs to. The fields do not change once the IDs are in a
// context; the user and the session are set while the request runs.
type IDs struct {
	Request string
	Trace   string // 32 hexadecimal digits (W3C Trace Context)
	Parent  string // 16 hexadecimal digits: the span of the caller
	Sampled bool
	user    atomic.Pointer[string] // set after login
	session atomic.Pointer[string]
}

type key struct{}

// From returns the ids of a context, nil when it has none.
func From(ctx context.Context) *IDs {
	ids, _ := ctx.Value(key{}).(*IDs)
	return ids
}

// With returns a context with the ids.
func With(ctx context.Context, ids *IDs) context.Context { return context.WithValue(ctx, key{}, ids) }

// SetUser names the user for the records that follow. It is safe for concurrent use.
func (ids *IDs) SetUser(user string) { ids.user.Store(&user) }

// SetSession names the session. It is safe for concurrent use.
func (ids *IDs) SetSession(session string) { ids.session.Store(&session) }

// Attrs returns the ids that are known, as attributes of a log record.
func (ids *IDs) Attrs() []slog.Attr {
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
	return "00-" + ids.Trace + "-" + RandomHex(8) + "-" + flags
}

// Parse reads a traceparent header; ok is false for anything
// malformed, which starts a new trace (W3C Trace Context, section 3.2).
func Parse(h string) (trace, parent string, sampled, ok bool) {
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

// RandomHex returns n random bytes as hexadecimal digits.
func RandomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
