// Package queuetest holds every engine of package queue to the same contract.
package queuetest

import (
	"testing"

	"github.com/tierkit/tierkit/queue"
)

// Run runs the suite. open returns a fresh, empty queue each time and closes it with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) *queue.Queue) {}
