package session_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/session"
)

// A public response does not carry the cookie into a shared cache.
func TestPublicResponseWithCookie(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{})
	b := &browser{h: handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		w.Header().Set("Cache-Control", "public, max-age=60")
		require.NoError(t, v.Update(r.Context(), func(v *visitor) error { v.N++; return nil }))
	})}
	b.do("/")
	require.Equal(t, "private, no-store", b.last.Header.Get("Cache-Control"))
}

// Over a real connection: Flush, 1xx and Hijack keep the cookie or refuse the write.
func TestFlushHijackAndEarlyHints(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{Insecure: true})
	late := make(chan error, 2)
	srv := httptest.NewServer(handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		count := func(v *visitor) error { v.N++; return nil }
		switch r.URL.Path {
		case "/flush":
			require.NoError(t, v.Update(r.Context(), count))
			require.NoError(t, http.NewResponseController(w).Flush())
			require.NoError(t, v.Update(r.Context(), count), "the session exists: no cookie needed")
		case "/toolate":
			w.(http.Flusher).Flush()
			late <- v.Update(r.Context(), count)
		case "/hints":
			w.WriteHeader(http.StatusEarlyHints)
			require.NoError(t, v.Update(r.Context(), count))
		case "/hijack":
			c, _, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			late <- v.Update(r.Context(), count)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			c.Close()
		}
	}))
	defer srv.Close()
	get := func(path string) []*http.Cookie {
		res, err := srv.Client().Get(srv.URL + path)
		require.NoError(t, err)
		_, _ = bufio.NewReader(res.Body).WriteTo(&strings.Builder{})
		res.Body.Close()
		return res.Cookies()
	}
	require.Len(t, get("/flush"), 1)
	require.Len(t, get("/hints"), 1)
	require.Empty(t, get("/toolate"))
	require.ErrorIs(t, <-late, session.ErrHeaderSent)
	require.Empty(t, get("/hijack"))
	require.ErrorIs(t, <-late, session.ErrHeaderSent, "nobody would get the cookie")
	srv.Client().CloseIdleConnections()
}

// A handler that panics: no 200 goes out on its behalf, a recovering middleware above can answer, and the cookie of
// what was stored stays private.
func TestPanic(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{Insecure: true})
	inner := handler(s, func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
		require.NoError(t, v.Update(r.Context(), func(v *visitor) error { v.N++; return nil }))
		panic("oops")
	})
	w := httptest.NewRecorder()
	func() {
		defer func() {
			require.Equal(t, "oops", recover())
			http.Error(w, "sorry", http.StatusInternalServerError)
		}()
		inner.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	}()
	require.Equal(t, 500, w.Code)
	require.Len(t, w.Result().Cookies(), 1)
	require.Equal(t, "private, no-store", w.Header().Get("Cache-Control"))
	b := &browser{h: site(t, s), cookies: map[string]string{"session": w.Result().Cookies()[0].Value}}
	require.Equal(t, "//1", b.do("/get").Body.String())
}

// HTTP/2, with Flush and a body from a reader.
func TestHTTP2(t *testing.T) {
	s := sessions(t, session.NewMemory(), session.Options{})
	srv := httptest.NewUnstartedServer(handler(s,
		func(w http.ResponseWriter, r *http.Request, v *session.Session[visitor]) {
			require.Equal(t, 2, r.ProtoMajor)
			require.NoError(t, v.Update(r.Context(), func(v *visitor) error { v.N++; return nil }))
			require.NoError(t, http.NewResponseController(w).Flush())
			_, err := io.Copy(w, strings.NewReader(strings.Repeat("x", 100_000)))
			require.NoError(t, err)
		}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Len(t, body, 100_000)
	require.Len(t, res.Cookies(), 1)
	srv.Client().CloseIdleConnections()
}
