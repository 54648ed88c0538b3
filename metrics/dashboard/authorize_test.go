package dashboard

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
)

func TestForwardedRequestsAreNotLocal(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*http.Request){
		"":                 func(*http.Request) {},
		"own origin":       func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:9090") },
		"own referer":      func(r *http.Request) { r.Header.Set("Referer", "http://localhost:9090/logs") },
		"!X-Forwarded-For": func(r *http.Request) { r.Header.Set("X-Forwarded-For", "127.0.0.1") },
		"!Forwarded":       func(r *http.Request) { r.Header.Set("Forwarded", "for=127.0.0.1") },
		"!X-Real-IP":       func(r *http.Request) { r.Header.Set("X-Real-IP", "203.0.113.9") },
		"!Via":             func(r *http.Request) { r.Header.Set("Via", "1.1 proxy") },
		"!HTTP/1.0":        func(r *http.Request) { r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0 },
		"!Origin":          func(r *http.Request) { r.Header.Set("Origin", "https://shop.example") },
		"!Origin null":     func(r *http.Request) { r.Header.Set("Origin", "null") },
		"!Referer":         func(r *http.Request) { r.Header.Set("Referer", "https://shop.example/admin/") },
		"!public Host":     func(r *http.Request) { r.Host = "shop.example" },
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:1", "127.0.0.1:9090"
		change(r)
		require.Equal(t, name == "" || name[0] != '!', FromThisMachine(r), name)
	}
}

// nginx on the same machine, with nothing but proxy_pass, does not open the dashboard to the world.
func TestBehindNginx(t *testing.T) {
	if testing.Short() {
		t.Skip("starts nginx")
	}
	t.Parallel()
	nginx := testserver.Binary(t, "nginx")
	d := mustNew(t, newMetrics(t), Options{})
	srv := httptest.NewServer(d)
	defer srv.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	dir := t.TempDir()
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d;
	scgi_temp_path %[1]s/e;
	server { listen %[2]s; location / { proxy_pass %[3]s; } }
}`, dir, addr, srv.URL)
	path := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(path, []byte(conf), 0o600))
	cmd := exec.Command(nginx, "-c", path, "-p", dir)
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(base, path, host string) (int, error) {
		r, err := http.NewRequest("GET", base+path, nil)
		require.NoError(t, err)
		r.Host = host
		res, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode, nil
	}
	require.Eventually(t, func() bool {
		_, err := get("http://"+addr, "/", "shop.example")
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	for _, path := range []string{"/", "/data", "/logs", "/debug/pprof/cmdline"} {
		code, err := get("http://"+addr, path, "shop.example")
		require.NoError(t, err)
		require.Equal(t, http.StatusForbidden, code, path)
	}
	code, err := get(srv.URL, "/data", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, code)
}
