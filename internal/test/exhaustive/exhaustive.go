// Package exhaustive sizes tests: quick for who runs "go test ./..." before a commit, full in the step of .ci/run that
// sets TIERKIT_EXHAUSTIVE=1.
package exhaustive

import (
	"os"
	"testing"
)

// Variable is the name of the environment variable that asks for full sizes. Any value but "" and "0" sets it.
const Variable = "TIERKIT_EXHAUSTIVE"

// On reports whether full sizes are asked for.
func On() bool {
	v := os.Getenv(Variable)
	return v != "" && v != "0"
}

// N returns full where full sizes are asked for, and quick otherwise. It logs which one a test ran with.
func N(t testing.TB, quick, full int) int {
	t.Helper()
	n := quick
	if On() {
		n = full
	}
	t.Logf("size %d (%s=1: %d)", n, Variable, full)
	return n
}

// Only skips a test that has no quick form unless full sizes are asked for.
func Only(t testing.TB) {
	t.Helper()
	if !On() {
		t.Skipf("runs with %s=1 only", Variable)
	}
}
