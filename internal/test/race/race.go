//go:build race

// Package race tells tests whether the race detector runs: sync.Pool then drops items at random, so counts of
// allocations mean nothing.
package race

// Enabled is true in a build with -race.
const Enabled = true
