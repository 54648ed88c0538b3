package testserver

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// PrometheusServer is a real Prometheus.
type PrometheusServer struct{ Process }

// Prometheus starts a server that ends with the test, with the given configuration (prometheus.yml) and further files
// beside it, by name, such as rules. It can read native histograms and exemplars.
func Prometheus(t testing.TB, config string, files map[string][]byte) *PrometheusServer {
	t.Helper()
	bin := Binary(t, "prometheus")
	cred := serverUser("prometheus")
	dir, err := newDir("prometheus", cred)
	if err != nil {
		t.Fatal(err)
	}
	s := &PrometheusServer{}
	s.Process.name, s.dir, s.cred, s.port = "prometheus", dir, cred, freePort()
	t.Cleanup(s.remove)
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	s.argv = []string{bin, "--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" +
		filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:" + strconv.Itoa(s.port), "--enable-feature=native-histograms,exemplar-storage",
		"--log.level=warn"}
	s.ready = func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, "GET", s.URL()+"/-/ready", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		if res.StatusCode != http.StatusOK {
			return errNotReady
		}
		return nil
	}
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

// URL of the server's API.
func (s *PrometheusServer) URL() string { return "http://" + s.Addr() }

// Binary returns the path of a program, and skips the test, or fails it when servers are required, where it is not
// installed.
func Binary(t testing.TB, name string) string {
	t.Helper()
	path := find(name)
	if path == "" {
		pkg := name
		if name == "promtool" {
			pkg = "prometheus"
		}
		missing(t, name, "apt-get install "+pkg)
	}
	return path
}
