package replica

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The context of a statement ends with the caller's, with the node and with the use, whether somebody asked for Done
// before or only then.
func TestFlight(t *testing.T) {
	type key struct{}
	for name, end := range map[string]func(n *conn, nd *node, cancel context.CancelFunc){
		"caller": func(_ *conn, _ *node, cancel context.CancelFunc) { cancel() },
		"node":   func(_ *conn, nd *node, _ context.CancelFunc) { nd.eject() },
		"use":    func(n *conn, _ *node, _ context.CancelFunc) { n.land() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nd, n := newNode(Node{Name: "a"}), &conn{}
				parent, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, 7), time.Hour)
				defer cancel()
				quiet, asked := n.under(parent, nd), n.under(parent, nd)
				child, stop := context.WithTimeout(asked, time.Minute) // as a driver does
				defer stop()
				for _, ctx := range []context.Context{quiet, asked, child} {
					require.NoError(t, ctx.Err())
					require.Equal(t, 7, ctx.Value(key{}))
					_, ok := ctx.Deadline()
					require.True(t, ok)
				}
				require.Nil(t, quiet.(*flight).made.Load(), "nothing was made that nobody asked for")
				end(n, nd, cancel)
				require.ErrorIs(t, quiet.Err(), context.Canceled)
				for _, ctx := range []context.Context{quiet, asked, child} {
					<-ctx.Done()
					require.ErrorIs(t, ctx.Err(), context.Canceled)
				}
				n.land()
				require.Nil(t, nd.flights)
				require.ErrorIs(t, quiet.Err(), context.Canceled)
				if name == "node" {
					require.NoError(t, n.under(parent, nd).Err(), "the next life")
					n.land()
				}
			})
		})
	}
}
