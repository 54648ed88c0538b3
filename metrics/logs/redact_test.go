package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type login struct {
	User     string
	Password string
	Nested   struct{ APIKey string }
	Key      string `json:"access_token"`
	hidden   string
}

type valuer struct{ secret string }

func (v valuer) LogValue() slog.Value { return slog.StringValue("token=" + v.secret) }

// Each of these ways to log a secret hides it, in both formats of slog and in the kept record; what is no secret stays.
func TestSecretsAreHidden(t *testing.T) {
	const s = "hunter2hunter2"
	link, err := url.Parse("https://shop.example/reset?token=" + s + "&page=7")
	require.NoError(t, err)
	request := httptest.NewRequest("GET", "/login?api_key="+s+"&page=7", nil)
	request.Header.Set("Authorization", "Bearer "+s)
	request.Header.Set("Cookie", "sid="+s)
	request.Header.Set("X-Kept", "kept")
	in := login{User: "kept", Password: s, Key: s, hidden: s}
	in.Nested.APIKey = s
	jwt := "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0." + s
	for name, attr := range map[string]slog.Attr{
		"key":                  slog.String("password", s),
		"key with separators":  slog.String("X-Api-Key", s),
		"key in camel case":    slog.String("accessToken", s),
		"key with a prefix":    slog.String("db_password", s),
		"Set-Cookie":           slog.String("Set-Cookie", "sid="+s+"; Path=/"),
		"number under its key": slog.Int("otp", 987654),
		"group":                slog.Group("form", "name", "kept", "secret", s),
		"header":               slog.Any("headers", request.Header),
		"header by value":      slog.Any("h", http.Header{"Set-Cookie": {"sid=" + s}, "X-Kept": {"kept"}}),
		"request":              slog.Any("request", request),
		"struct":               slog.Any("login", in),
		"pointer":              slog.Any("login", &in),
		"list of structs":      slog.Any("logins", []login{in}),
		"map":                  slog.Any("m", map[string]any{"kept": "kept", "client_secret": s}),
		"map in a map":         slog.Any("m", map[string]map[string]string{"a": {"token": s, "kept": "kept"}}),
		"url.Values":           slog.Any("form", url.Values{"password": {s}, "name": {"kept"}}),
		"url":                  slog.Any("url", link),
		"url text":             slog.String("url", link.String()),
		"url with a password":  slog.String("dsn", "postgres://kept:"+s+"@db:5432/shop"),
		"error":                slog.Any("err", fmt.Errorf("dial mysql://kept:%s@db: %w", s, errors.New("refused"))),
		"DSN of keys":          slog.String("dsn", "host=kept user=web password="+s+" sslmode=off"),
		"bearer in text":       slog.String("line", "kept Authorization: Bearer "+s),
		"basic in text":        slog.String("line", "kept Basic "+s+"=="),
		"cookie in text":       slog.String("line", "kept\nCookie: sid="+s+"; other="+s),
		"JSON text":            slog.String("body", `{"name":"kept","password":"`+s+`"}`),
		"JSON text in JSON":    slog.String("body", `{"name":"kept","in":"{\"password\":\"`+s+`\"}"}`),
		"JSON bytes":           slog.Any("body", []byte(`{"name":"kept","api_key":"`+s+`"}`)),
		"json.RawMessage":      slog.Any("body", json.RawMessage(`{"name":"kept","refreshToken": "`+s+`"}`)),
		"JWT":                  slog.String("text", "kept "+jwt),
		"LogValuer":            slog.Any("v", valuer{s}),
		"key of a cloud":       slog.String("text", "kept AKIA"+strings.ToUpper("hunter2hunter2ab")),
		"private key": slog.String("text", "kept -----BEGIN RSA PRIVATE KEY-----\n"+s+
			"\n-----END RSA PRIVATE KEY-----"),
		"form text":             slog.String("body", "user=kept&passwd="+s),
		"quoted in text":        slog.String("text", "kept secret: '"+s+"'"),
		"pointer to a map":      slog.Any("m", &map[string]string{"passphrase": s}),
		"header as text":        slog.String("dump", "X-Kept: kept\r\nX-Auth-Token: "+s+"\r\n"),
		"error below a struct":  slog.Any("x", struct{ Err error }{errors.New("token=" + s)}),
		"any in a struct":       slog.Any("x", struct{ Any any }{map[string]string{"secret": s}}),
		"credentials in a list": slog.Any("x", []any{map[string]string{"credentials": s}}),
	} {
		for format, make := range map[string]func(*bytes.Buffer) slog.Handler{
			"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var buf bytes.Buffer
			h := NewHandler(make(&buf), HandlerOptions{})
			slog.New(h).Info("message", attr)
			slog.New(h).With(attr).WithGroup("g").Info("message")
			slog.New(h).With(slog.Group("outer", attr)).Info("message")
			kept, err := json.Marshal(h.Recent())
			require.NoError(t, err)
			for what, text := range map[string]string{format: buf.String(), "record": string(kept)} {
				low := strings.ToLower(text)
				require.NotContains(t, low, s, "%s as %s: %s", name, what, text)
				require.NotContains(t, low, "987654", "%s as %s", name, what)
				require.Contains(t, text, "[redacted]", "%s as %s", name, what)
				if strings.Contains(fmt.Sprint(attr.Value), "kept") {
					require.Contains(t, text, "kept", "%s as %s: %s", name, what, text)
				}
			}
		}
	}
	var buf bytes.Buffer
	h := NewHandler(slog.NewTextHandler(&buf, nil), HandlerOptions{})
	slog.New(h).Error("login with password=" + s + " failed")
	require.NotContains(t, buf.String(), s, "the message")
	require.NotContains(t, h.Errors()[0].Message, s)
}

func TestWhatIsNoSecretStays(t *testing.T) {
	for _, attr := range []slog.Attr{slog.Int("tokens_used", 1234), slog.String("path", "/items/7?page=2"),
		slog.String("text", "at 10:04:05 node a:5432 = primary"), slog.Duration("took", 5),
		slog.Bool("has_token", true),
		slog.String("url", "https://shop.example:8443/a?b=c#d"),
		slog.Any("err", errors.New("dial tcp 10.0.0.7:5432: refused")),
		slog.String("json", `{"name":"ada","n":7}`)} {
		var before, after bytes.Buffer
		drop := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}
		slog.New(slog.NewTextHandler(&before, drop)).Info("m", attr)
		slog.New(NewHandler(slog.NewTextHandler(&after, drop), HandlerOptions{})).Info("m", attr)
		require.Equal(t, before.String(), after.String())
	}
}

func FuzzRedact(f *testing.F) {
	r := newRedactor(defaultRedact)
	f.Add("https://u:p@h/?token=x", "password=\"a")
	f.Fuzz(func(t *testing.T, a, b string) {
		if once := r.text(a + b); len(once) > 20*len(a+b)+100 {
			t.Fatal("grows without bound")
		}
	})
}
