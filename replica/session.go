package replica

import (
	"sync"
)

// maxFloors bounds the clusters in one session: a token travels in a cookie.
const maxFloors = 16

// A Session is what one user has written and seen: per cluster the position that his next read must not be behind.
// It is safe for concurrent use; one per user and request, carried on by Tokens.
type Session struct {
	mu     sync.Mutex
	floors map[string]floor
	wrote  bool
}

type floor struct {
	pos Position
	// unknown: a write whose position could not be captured; reads go to the primary.
	unknown bool
}

// NewSession returns a session that has written and seen nothing.
func NewSession() *Session { return &Session{} }

// Wrote reports whether a write was committed under this session since it was made or decoded: only then has a token to be sent.
func (s *Session) Wrote() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrote
}

// Position returns the position that reads on the named cluster must not be behind.
func (s *Session) Position(cluster string) (Position, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.floors[cluster]
	return f.pos, ok && !f.unknown
}
