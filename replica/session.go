package replica

import (
	"sync"
	"time"
)

// maxFloors bounds the clusters in one session: a token travels in a cookie.
const maxFloors = 16

// clockSkew is how far the clocks of two servers that share tokens may differ before a token looks like one from the future.
const clockSkew = 2 * time.Second

// A Session is what one user has written and seen: per cluster the position that his next read must not be behind.
// It is safe for concurrent use; one per user and request, carried on by Tokens.
type Session struct {
	mu     sync.Mutex
	floors map[string]floor
	wrote  bool
}

type floor struct {
	pos Position
	at  time.Time // when pos was noted
	// unknown: a write whose position could not be captured; reads go to the primary.
	unknown bool
	// node is the replica that served the last read, readAt when: staying on it keeps reads from going back in time.
	node   string
	readAt time.Time
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
	return f.pos, ok && !f.unknown && !f.pos.IsZero()
}

func (s *Session) update(cluster string, change func(*floor)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.floors[cluster]
	if !ok && len(s.floors) >= maxFloors {
		oldest := ""
		for k, v := range s.floors {
			if oldest == "" || v.at.Before(s.floors[oldest].at) {
				oldest = k
			}
		}
		delete(s.floors, oldest)
	}
	change(&f)
	if s.floors == nil {
		s.floors = map[string]floor{}
	}
	s.floors[cluster] = f
}

// writing: a write was sent and its position is not known yet.
func (s *Session) writing(cluster string) {
	s.update(cluster, func(f *floor) { f.unknown = true })
	s.mu.Lock()
	s.wrote = true
	s.mu.Unlock()
}

// wrotePosition: everything the session wrote is covered by pos.
func (s *Session) wrotePosition(cluster string, pos Position, d Dialect) {
	s.update(cluster, func(f *floor) {
		f.unknown = false
		if f.pos.IsZero() || f.pos.System != pos.System || !d.Covers(f.pos, pos) {
			f.pos, f.at = pos, time.Now()
		}
	})
}

// read: a replica served a read.
func (s *Session) read(cluster, node string) {
	s.update(cluster, func(f *floor) { f.node, f.readAt = node, time.Now() })
}

// floorFor returns what the next read needs. Positions of a foreign system, and such as the primary had not reached although it
// was asked well after they were noted, are refused: every read would wait for them in vain.
func (s *Session) floorFor(cluster string, t *topology, d Dialect) (f floor, refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.floors[cluster]
	if !ok || f.pos.IsZero() {
		return f, false
	}
	foreign := t.system != "" && f.pos.System != "" && f.pos.System != t.system
	future := !t.position.IsZero() && t.probed.Sub(f.at) > clockSkew && !d.Covers(t.position, f.pos)
	if foreign || future {
		f = floor{unknown: f.unknown}
		s.floors[cluster] = f
		return f, true
	}
	return f, false
}

type bound struct {
	pos Position
	ok  bool
}

// seen bounds what the session's last read can have shown: the position of that replica in a probe sent after the read. Without
// such a probe there is no bound but the primary.
func (f *floor) seen(t *topology) bound {
	if f.node == "" {
		return bound{ok: true}
	}
	for i := range t.readable {
		if k := &t.readable[i]; k.node.Name == f.node {
			return bound{pos: k.pos, ok: k.began.After(f.readAt)}
		}
	}
	// The replica is gone. A position of the primary probed after the read bounds it too.
	return bound{pos: t.position, ok: t.probed.After(f.readAt)}
}
