package logs

import (
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tierkit/tierkit/internal/usercode"
)

// redacted stands for what was taken out.
const redacted = "[redacted]"

// defaultRedact are the words that make a key secret.
var defaultRedact = []string{"password", "passwd", "passphrase", "secret", "token", "authorization", "cookie", "apikey",
	"accesskey", "privatekey", "credential", "signature", "jwt", "otp"}

// redactor takes secrets out of records: by the key that a value has, wherever it stands, and by the shape of text.
type redactor struct {
	words []string       // lower case, without separators
	pairs *regexp.Regexp // key=value and "key": "value" in text
}

// shapes are secrets that text shows without a key.
var shapes = []struct {
	hint string // a substring without which the expression cannot match; lower case is not implied
	re   *regexp.Regexp
	with string
}{
	{"://", regexp.MustCompile(`(://[^\s/:@?#]*):[^\s/@]+@`), "$1:" + redacted + "@"},
	{"eyJ", regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*`), redacted},
	{"PRIVATE KEY", regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*KEY-----|$)`),
		redacted},
	{"AKIA", regexp.MustCompile(`\bAKIA[0-9A-Z]{16}\b`), redacted},
	{"gh", regexp.MustCompile(`\bgh[pousr]_[A-Za-z0-9]{36,}`), redacted},
	{"xox", regexp.MustCompile(`\bxox[abprs]-[A-Za-z0-9-]{10,}`), redacted},
	{"k_", regexp.MustCompile(`\b[sr]k_(?:live|test)_[A-Za-z0-9]{10,}`), redacted},
	{"earer", regexp.MustCompile(`(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{6,}`), "$1 " + redacted},
	{"asic", regexp.MustCompile(`(?i)\b(basic)\s+[A-Za-z0-9+/]{8,}=*`), "$1 " + redacted},
	{"ookie", regexp.MustCompile(`(?i)\b((?:set-)?cookie2?)(["']?\s*[:=]\s*["'\[]*)[^\r\n"']+`), "$1$2" + redacted},
}

func newRedactor(keys []string) *redactor {
	r := &redactor{}
	var alternatives []string
	for _, k := range keys {
		w := normalKey(k)
		if w == "" {
			continue
		}
		r.words = append(r.words, w)
		letters := strings.Split(w, "")
		for i := range letters {
			letters[i] = regexp.QuoteMeta(letters[i])
		}
		alternatives = append(alternatives, strings.Join(letters, "[-_ ]?")) // api_key, api-key, apikey
	}
	if len(alternatives) > 0 {
		r.pairs = regexp.MustCompile(`(?i)((?:` + strings.Join(alternatives, "|") +
			`)[a-z0-9]*(?:[-_][a-z0-9]+)*\\?["']?\s*(?:=|:)\s*)(\\?"(?:[^"\\]|\\[^"])*\\?"|'[^']*'|[^\s"'&,;})\]]+)`)
	}
	return r
}

// normalKey brings "X-Api-Key", "apiKey" and "api_key" to one form.
func normalKey(k string) string {
	return strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || c == ' ' || c == '.' {
			return -1
		}
		return c
	}, strings.ToLower(k))
}

// secret reports whether a key says that its value is one.
func (r *redactor) secret(key string) bool {
	k := normalKey(key)
	return slices.ContainsFunc(r.words, func(w string) bool { return strings.Contains(k, w) })
}

// text takes secrets out of a string.
func (r *redactor) text(s string) string {
	if len(s) < 6 {
		return s
	}
	for i := range shapes {
		if strings.Contains(s, shapes[i].hint) || shapes[i].hint == "ookie" && strings.Contains(s, "OOKIE") {
			s = shapes[i].re.ReplaceAllString(s, shapes[i].with)
		}
	}
	if r.pairs != nil && strings.ContainsAny(s, "=:") {
		s = r.pairs.ReplaceAllStringFunc(s, func(m string) string {
			at := r.pairs.FindStringSubmatchIndex(m)
			key, value := m[:at[3]], m[at[4]:]
			switch low := strings.ToLower(value); {
			case strings.Contains(value, redacted) || low == "bearer" || low == "basic":
				return m // what follows was taken out already
			case strings.HasPrefix(value, `"`) || strings.HasPrefix(value, "'"):
				return key + value[:1] + redacted + value[:1]
			case strings.HasPrefix(value, `\"`):
				return key + `\"` + redacted + `\"`
			}
			return key + redacted
		})
	}
	return s
}

// attr takes secrets out of an attribute. Numbers, times and booleans stay unless their key is exactly a secret's.
func (r *redactor) attr(a slog.Attr) slog.Attr {
	a.Value = r.value(a.Key, a.Value.Resolve(), 0)
	return a
}

// maxDepth bounds how deep structs, maps and groups are looked into; what lies deeper is replaced.
const maxDepth = 6

func (r *redactor) value(key string, v slog.Value, depth int) slog.Value {
	if r.secret(key) && (v.Kind() == slog.KindString || v.Kind() == slog.KindAny || v.Kind() == slog.KindGroup ||
		slices.Contains(r.words, normalKey(key))) {
		return slog.StringValue(redacted)
	}
	switch v.Kind() {
	case slog.KindString:
		return slog.StringValue(r.text(v.String()))
	case slog.KindGroup:
		group := slices.Clone(v.Group())
		for i := range group {
			group[i].Value = r.value(group[i].Key, group[i].Value.Resolve(), depth+1)
		}
		return slog.GroupValue(group...)
	case slog.KindAny:
		out := slog.StringValue("")
		if err := usercode.Call(func() { out = r.any(v.Any(), depth) }); err != nil { // in a method of the value
			return slog.StringValue("!PANIC: " + r.text(strings.TrimPrefix(err.Error(), "panic: ")))
		}
		return out
	}
	return v
}

// any makes a value that a handler would print or marshal into text or a group without secrets.
func (r *redactor) any(x any, depth int) slog.Value {
	switch x := x.(type) {
	case nil:
		return slog.AnyValue(nil)
	case slog.LogValuer:
		return r.value("", slog.AnyValue(x).Resolve(), depth+1)
	case error:
		return slog.StringValue(r.text(x.Error()))
	case *http.Request:
		return r.request(x)
	case *url.URL:
		return slog.StringValue(r.text(x.String()))
	case url.URL:
		return slog.StringValue(r.text(x.String()))
	case []byte:
		return r.bytes(x)
	case json.RawMessage:
		return r.bytes(x)
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		if err != nil {
			return slog.StringValue("!ERROR:" + r.text(err.Error()))
		}
		return slog.StringValue(r.text(string(b)))
	case fmt.Stringer:
		if k := reflect.TypeOf(x).Kind(); k != reflect.Struct && k != reflect.Map && k != reflect.Pointer {
			return slog.StringValue(r.text(x.String()))
		}
	}
	if depth >= maxDepth {
		return slog.StringValue("[too deep]")
	}
	return r.reflected(reflect.ValueOf(x), depth)
}

func (r *redactor) bytes(b []byte) slog.Value {
	if !utf8.Valid(b) {
		return slog.StringValue(fmt.Sprintf("[%d bytes]", len(b)))
	}
	return slog.StringValue(r.text(string(b)))
}

// request describes an HTTP request: its body, host and address are not of interest here.
func (r *redactor) request(x *http.Request) slog.Value {
	if x == nil {
		return slog.AnyValue(nil)
	}
	target := ""
	if x.URL != nil {
		target = r.text(x.URL.String())
	}
	return slog.GroupValue(slog.String("method", x.Method), slog.String("url", target),
		slog.Attr{Key: "header", Value: r.any(map[string][]string(x.Header), 1)})
}

// reflected turns structs and maps into groups, and lists into text.
func (r *redactor) reflected(v reflect.Value, depth int) slog.Value {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return slog.AnyValue(nil)
		}
		return r.any(v.Elem().Interface(), depth+1)
	case reflect.Map:
		return r.mapped(v, depth)
	case reflect.Struct:
		var group []slog.Attr
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			name := f.Name
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if tag == "-" {
				continue
			}
			if tag != "" {
				name = tag
			}
			x := slog.AnyValue(v.Field(i).Interface())
			if r.secret(f.Name) {
				x = slog.StringValue(redacted)
			}
			group = append(group, slog.Attr{Key: name, Value: r.value(name, x, depth+1)})
		}
		return slog.GroupValue(group...)
	case reflect.Slice, reflect.Array:
		items := make([]string, 0, min(v.Len(), 32))
		for i := range min(v.Len(), 32) {
			items = append(items, r.any(v.Index(i).Interface(), depth+1).String())
		}
		if v.Len() > 32 {
			items = append(items, fmt.Sprintf("... %d more", v.Len()-32))
		}
		return slog.StringValue("[" + strings.Join(items, " ") + "]")
	case reflect.String:
		return slog.StringValue(r.text(v.String()))
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		return slog.StringValue(v.Type().String())
	}
	return slog.AnyValue(v.Interface())
}

func (r *redactor) mapped(v reflect.Value, depth int) slog.Value {
	var group []slog.Attr
	for it := v.MapRange(); it.Next() && len(group) < 64; {
		key := fmt.Sprint(it.Key().Interface())
		group = append(group, slog.Attr{Key: key, Value: r.value(key, slog.AnyValue(it.Value().Interface()), depth+1)})
	}
	slices.SortFunc(group, func(a, b slog.Attr) int { return strings.Compare(a.Key, b.Key) })
	return slog.GroupValue(group...)
}
