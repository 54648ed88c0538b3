package testserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Command returns the path of a client program that a test runs, such as dig. Without it the test is skipped, saying
// what to install, or fails when servers are required.
func Command(t testing.TB, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name, install)
	}
	return path
}

// NPM returns a node_modules folder with packages ("name@version") of npm's registry. They are fetched once, into the
// user's cache folder; their install scripts are not run. Without node and npm the test is skipped, or fails when
// servers are required. It is skipped in any case when the registry does not give them: that is nothing this machine
// could install.
func NPM(t testing.TB, packages ...string) string {
	t.Helper()
	npm := Command(t, "npm", "apt install npm")
	Command(t, "node", "apt install nodejs")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(strings.Join(packages, " ")))
	dir := filepath.Join(cache, "tierkit", "npm-"+hex.EncodeToString(sum[:8]))
	modules := filepath.Join(dir, "node_modules")
	if _, err := os.Stat(modules); err == nil {
		return modules
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "npm-new-") // renamed when it is whole
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	if err := os.WriteFile(filepath.Join(tmp, "package.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, append([]string{"install", "--ignore-scripts", "--no-audit", "--no-fund"},
		packages...)...)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("testserver: npm's registry did not give %s: %v\n%s", strings.Join(packages, " "), err, out)
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, statErr := os.Stat(modules); statErr != nil { // else another process was first
			t.Fatal(err)
		}
	}
	return modules
}
