package replica

import (
	"sync"
	"time"
)

// maxFloors bounds the clusters in one session: a token travels in a cookie.
const maxFloors = 16

// clockSkew is how far the clocks of two servers that share tokens may differ before a token looks like one from the
// future.
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
	// unknown: a write is under way, or its position could not be captured; reads go to the primary.
	unknown bool
	// writes counts those that were begun, sending those that are under way, and lost is the last one that had been
	// begun when the outcome of one was lost: only the position of a later one covers that.
	writes, lost uint64
	sending      int
	// node is the node that served the last read, readAt when: staying on a replica keeps reads from going back in
	// time.
	node   string
	readAt time.Time
}

// NewSession returns a session that has written and seen nothing.
func NewSession() *Session { return &Session{} }

// Wrote reports whether a write was committed under this session since it was made or decoded: only then has a token to
// be sent.
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

// writing: a write is sent and its position is not known yet. It ends with wrotePosition, wroteNothing or lostWrite,
// which are given its number.
func (s *Session) writing(cluster string) (number uint64) {
	s.update(cluster, func(f *floor) {
		f.unknown = true
		f.sending++
		f.writes++
		number = f.writes
	})
	s.mu.Lock()
	s.wrote = true
	s.mu.Unlock()
	return number
}

// wrotePosition: everything the session wrote is covered by pos, but for what is still under way.
func (s *Session) wrotePosition(cluster string, number uint64, pos Position, d Dialect) {
	s.update(cluster, func(f *floor) {
		if number > f.lost {
			f.lost = 0
		}
		f.sent()
		f.raise(pos, d)
	})
}

func (s *Session) wroteNothing(cluster string) { s.update(cluster, (*floor).sent) }

func (s *Session) lostWrite(cluster string) {
	s.update(cluster, func(f *floor) {
		f.lost = f.writes
		f.sent()
	})
}

// sawPosition: everything the session read is covered by pos.
func (s *Session) sawPosition(cluster string, pos Position, d Dialect) {
	s.update(cluster, func(f *floor) {
		f.node, f.readAt = "", time.Time{}
		f.raise(pos, d)
	})
}

func (f *floor) sent() {
	f.sending = max(f.sending-1, 0)
	f.unknown = f.sending > 0 || f.lost > 0
}

func (f *floor) raise(pos Position, d Dialect) {
	if f.pos.IsZero() || f.pos.System != pos.System || !d.Covers(f.pos, pos) {
		f.pos, f.at = pos, time.Now()
	}
}

// read: a node served a read.
func (s *Session) read(cluster, node string) {
	s.update(cluster, func(f *floor) { f.node, f.readAt = node, time.Now() })
}

// floorFor returns what the next read needs. Positions of a foreign system, and such as the primary had not reached
// although it was asked well after they were noted, are refused: every read would wait for them in vain.
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
		f = floor{unknown: f.unknown, writes: f.writes, lost: f.lost, sending: f.sending}
		s.floors[cluster] = f
		return f, true
	}
	return f, false
}

type bound struct {
	pos Position
	ok  bool
}

// seen bounds what the session's last read can have shown: the position of that replica in a probe sent after the read.
// Without such a probe there is no bound but the primary.
func (f *floor) seen(t *topology) bound {
	if f.node == "" {
		return bound{ok: true}
	}
	for i := range t.readable {
		if k := &t.readable[i]; k.node.Name == f.node {
			return bound{pos: k.pos, ok: k.began.After(f.readAt)}
		}
	}
	// The replica is gone, or it was the primary. A position of the primary probed after the read bounds it too.
	return bound{pos: t.position, ok: t.probed.After(f.readAt)}
}
