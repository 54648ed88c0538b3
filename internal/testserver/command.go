package testserver

import (
	"os/exec"
	"testing"
)

// Command returns the path of a client program that a test runs, such as dig. Without it the test is skipped, saying what to
// install, or fails when servers are required.
func Command(t testing.TB, name, install string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name, install)
	}
	return path
}
