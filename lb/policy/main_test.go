package policy

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/lb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func endpoints(n int) []lb.Endpoint {
	es := make([]lb.Endpoint, n)
	for i := range es {
		es[i] = lb.Endpoint{ID: fmt.Sprintf("b%02d", i), Addr: fmt.Sprintf("192.0.2.%d:80", i+1)}
	}
	return es
}

func newBalancer(t testing.TB, es []lb.Endpoint, o lb.Options) *lb.Balancer {
	t.Helper()
	b, err := lb.New(es, o)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

func backend(b *lb.Balancer, id string) *lb.Backend {
	for _, be := range b.Backends() {
		if be.ID() == id {
			return be
		}
	}
	return nil
}

// rebuild makes the balancer build its picker anew.
func rebuild(t require.TestingT, b *lb.Balancer) {
	var es []lb.Endpoint
	for _, be := range b.Backends() {
		es = append(es, be.Endpoint())
	}
	require.NoError(t, b.Update(es))
}

// spy knows the last picker of a policy.
type spy struct {
	lb.Policy
	last atomic.Pointer[lb.Picker]
}

func (s *spy) Picker(bs []*lb.Backend) lb.Picker {
	p := s.Policy.Picker(bs)
	s.last.Store(&p)
	return p
}

func (s *spy) picker() lb.Picker { return *s.last.Load() }
