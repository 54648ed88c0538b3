// Package sessiontest holds every store of package session to the same contract.
package sessiontest

import (
	"testing"

	"github.com/tierkit/tierkit/session"
)

// Run runs the suite. open returns a store, in which other tests may have left records.
func Run(t *testing.T, open func(t *testing.T) session.Store) {}
