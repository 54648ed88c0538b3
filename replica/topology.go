package replica

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tierkit/tierkit/internal/health"
)

// topology is what routing needs to know, computed anew after every probe and never changed afterwards.
type topology struct {
	primary  *node
	gen      uint64   // of the primary's connections: what finds another one has not found the node that was chosen
	position Position // best known position of the primary; the measure of lag
	probed   time.Time
	system   string
	// readable replicas: up, not fenced, not draining, not lagging over the limits. The local ones first.
	readable []candidate
	local    int // how many of them are in our zone
	replicas int // configured nodes that are not the primary: 0 means that reads on the primary are no spill
	split    []string
	epoch    uint64
	changed  chan struct{} // closed when the next topology is in place
	ready    bool          // every node was probed once, or a primary is known
	unprobed bool          // a node was not probed yet: there may be a replica
}

// candidate is a replica as it was last probed.
type candidate struct {
	node *node
	pos  Position
	lag  time.Duration
	// began is when the probe that found pos was sent: what was visible before it is covered by pos.
	began time.Time
}

// member is a node with what the cluster knows of it. Guarded by Cluster.mu.
type member struct {
	*node
	machine   health.Machine
	state     NodeState
	probed    bool
	lastProbe time.Time
	began     time.Time
	lastErr   string
	fenced    string
	draining  bool
	downSince time.Time
	failing   time.Time // first of the failed probes in a row
	overlay   uint64    // timeline given by a promotion of ours, for dialects without timelines
	replaced  bool      // Options.Replace was called for this absence
	hadRole   bool      // was up at some time
	joining   bool      // was added or came back, and has not caught up with joinAt
	joinAt    Position
	joinFor   uint64        // the timeline of joinAt
	astray    bool          // a promotion may have cut it off and has not told it whom to follow
	tellAt    time.Time     // when that is tried again
	tellAfter time.Duration // the pause before
	rose      bool          // was last seen to turn from a replica into a primary
	cancel    func()
	done      chan struct{}
}

func (m *member) timeline() uint64 { return max(m.state.Replayed.Timeline, m.overlay) }

func (m *member) up() bool { return m.probed && m.machine.State() == health.Up }

// observe takes the result of one probe. A promotion knows more than a probe that was under way meanwhile: that one
// still saw a standby, and to believe it would be to lose the new primary again, with all that was acknowledged on it
// in doubt.
func (c *Cluster) observe(m *member, st NodeState, err error, began time.Time) {
	now := time.Now()
	c.mu.Lock()
	if began.Before(m.began) || c.memberOf(m.node) == nil { // or it was removed meanwhile
		c.mu.Unlock()
		return
	}
	before := c.statusOf(m)
	m.probed, m.lastProbe = true, now
	if err == nil {
		m.lastErr, m.failing = "", time.Time{}
		if m.state.Role != RoleUnknown && m.state.Role != st.Role {
			m.gen.Add(1) // the sessions of another role may hold its state
		}
		m.rose = st.Role == RolePrimary && (m.rose || m.state.Role == RoleReplica)
		m.state, m.began = st, began
		m.machine.Observe(true, now)
	} else {
		m.lastErr = err.Error()
		if m.failing.IsZero() {
			m.failing = began
		}
		// a stale connection says nothing of the host
		if c.dialect.Kind(err) == KindRefused && !errors.Is(err, driver.ErrBadConn) {
			m.machine.Force(health.Down, now)
		} else {
			m.machine.Observe(false, now)
		}
	}
	c.recompute(now)
	after := c.statusOf(m)
	c.mu.Unlock()
	if before.Role != after.Role || before.State != after.State || before.Fenced != after.Fenced {
		c.nodeChanged(m.node, before, after)
	}
}

// refused ejects a node at once: a connection to it was refused, unless a probe that began later than the attempt knows
// better.
func (c *Cluster) refused(n *node, err *connectError) {
	if c.dialect.Kind(err.err) != KindRefused {
		return
	}
	now := time.Now()
	c.mu.Lock()
	m := c.memberOf(n)
	if m == nil || m.machine.State() == health.Down || err.began.Before(m.began) {
		c.mu.Unlock()
		return
	}
	before := c.statusOf(m)
	m.lastErr = err.err.Error()
	if m.failing.IsZero() {
		m.failing = now
	}
	m.machine.Force(health.Down, now)
	c.recompute(now)
	after := c.statusOf(m)
	c.mu.Unlock()
	c.nodeChanged(n, before, after)
}

func (c *Cluster) nodeChanged(n *node, before, after NodeStatus) {
	if after.State != "up" || after.Fenced != "" || before.Role != after.Role {
		c.n.discarded.Add(uint64(n.discardIdle(0)))
	}
	if h := c.opts.Hooks; h != nil && h.NodeChanged != nil {
		h.NodeChanged(before, after)
	}
}

// recompute makes the next topology. Every change of role, fencing and primary happens here and nowhere else:
//
//	node says      and                                        it is
//	primary        timeline below the highest ever seen       fenced: a former primary that came back
//	primary        another system id                          fenced: foreign
//	primary        alone on the highest timeline              the primary
//	primary        another one there too                      nothing: split brain, writes are refused
//	replica        on an older timeline, past the fork        fenced: it follows the former primary
//	replica        same system id                             a replica, once it has caught up
func (c *Cluster) recompute(now time.Time) {
	old := c.topo.Load()
	t := &topology{epoch: old.epoch, system: c.system, changed: make(chan struct{}), ready: old.ready}
	for _, m := range c.members { // learn the system and the highest timeline first
		if c.system == "" && m.up() && m.state.Role == RolePrimary {
			c.system = m.state.Replayed.System
		}
	}
	// of standbys too: one that follows a new primary tells of it, though we may not see that one
	for _, m := range c.members {
		if m.up() && m.state.Replayed.System == c.system && m.state.Role != RoleUnknown {
			c.timeline = max(c.timeline, m.timeline())
		}
	}
	if m := c.risen(); m != nil {
		c.timeline++
		m.overlay = c.timeline
	}
	t.system = c.system
	var writers []*member
	allProbed := true
	for _, m := range c.members {
		allProbed = allProbed && m.probed
		fenced := ""
		if m.probed && m.state.Role != RoleUnknown {
			switch {
			case c.system != "" && m.state.Replayed.System != "" && m.state.Replayed.System != c.system:
				fenced = "foreign system id " + m.state.Replayed.System
			case m.state.Role == RolePrimary && m.timeline() < c.timeline:
				fenced = fmt.Sprintf("former primary on timeline %d, the cluster is on %d", m.timeline(), c.timeline)
			case m.state.Role == RoleReplica && c.diverged(m):
				fenced = fmt.Sprintf("follows a former primary: on timeline %d it is past the point where timeline %d began", m.timeline(), c.timeline)
			}
		}
		if fenced != m.fenced {
			m.fenced = fenced
			m.gen.Add(1)
			m.eject()
		}
		if m.machine.State() == health.Down {
			m.end()
		} else if m.ended() {
			m.revive()
		}
		if m.probed && !m.up() && (m.hadRole || m.joining) { // what it missed it has to catch up with
			m.joining, m.joinAt = true, Position{}
		}
		if m.up() {
			m.hadRole = true
			m.downSince, m.replaced = time.Time{}, false
			if m.state.Role == RolePrimary && m.fenced == "" && !m.state.ReadOnly {
				writers = append(writers, m)
			}
		} else if m.probed && m.downSince.IsZero() {
			m.downSince = now
		}
	}
	c.surveyed = c.surveyed || allProbed
	switch len(writers) {
	case 0:
	case 1:
		p := writers[0]
		if !p.draining && c.surveyed {
			t.primary, t.gen, t.position, t.probed = p.node, p.gen.Load(), p.state.Replayed, p.began
		}
		if c.lastPrimary != p.node {
			c.lastPrimary = p.node
			t.epoch++
		}
		c.lastPosition, c.lastTimeline, c.lastSynchronous = p.state.Replayed, p.timeline(), p.state.Synchronous
		c.primaryLost = time.Time{}
	default:
		for _, m := range writers {
			t.split = append(t.split, m.Name)
		}
	}
	if len(writers) == 0 && allProbed && c.primaryLost.IsZero() && (c.lastPrimary == nil || c.lastPrimary != c.left) {
		c.primaryLost = now
	}
	for _, m := range c.members {
		if m.node != t.primary {
			t.replicas++
		}
		if !m.up() || m.state.Role != RoleReplica || m.fenced != "" || m.draining || m.Weight < 0 {
			continue
		}
		if !c.caughtUp(m) {
			continue
		}
		bytes, lag := c.lagOf(m)
		if c.opts.MaxLag > 0 && lag > c.opts.MaxLag || c.opts.MaxLagBytes > 0 && bytes > c.opts.MaxLagBytes {
			continue
		}
		t.readable = append(t.readable, candidate{node: m.node, pos: m.state.Replayed, lag: lag, began: m.began})
		if m.Zone == c.opts.Zone {
			t.local++
		}
	}
	if t.local > 0 && t.local < len(t.readable) {
		slices.SortStableFunc(t.readable, func(a, b candidate) int {
			return btoi(b.node.Zone == c.opts.Zone) - btoi(a.node.Zone == c.opts.Zone)
		})
	}
	t.ready = t.ready || t.primary != nil || allProbed
	t.unprobed = !allProbed
	full := len(t.split) == 0 && t.primary != nil && len(t.readable) == len(c.members)-1
	if full {
		c.degradedSince = time.Time{}
	} else if c.degradedSince.IsZero() && allProbed {
		c.degradedSince = now
	}
	c.topo.Store(t)
	close(old.changed)
	c.afterChange(now)
}

// risen is the node that somebody else promoted, for dialects without timelines: it was a replica, and no other node is
// the primary. Without a timeline it would look like a former primary as soon as one promotion was ours.
func (c *Cluster) risen() (found *member) {
	if c.timeline == 0 {
		return nil
	}
	for _, m := range c.members {
		if !m.up() || m.state.Role != RolePrimary || m.state.Replayed.System != c.system {
			continue
		}
		if m.timeline() >= c.timeline || m.state.Replayed.Timeline != 0 || m.rose && found != nil {
			return nil
		}
		if m.rose {
			found = m
		}
	}
	return found
}

// diverged: the standby has replayed what the present timeline does not have. The place of the fork is known to who
// made it.
func (c *Cluster) diverged(m *member) bool {
	t := m.state.Replayed.Timeline
	return t != 0 && t < c.timeline && t == c.forked.Timeline && m.state.Replayed.Offset > c.forked.Offset
}

// caughtUp: a node that was added or came back serves reads once it has what the primary had when it was first seen
// again.
func (c *Cluster) caughtUp(m *member) bool {
	if !m.joining {
		return true
	}
	if m.joinAt.IsZero() || m.joinFor < c.timeline {
		m.joinAt, m.joinFor = c.lastPosition, c.lastTimeline
	}
	if m.joinAt.IsZero() || c.dialect.Covers(m.state.Replayed, m.joinAt) {
		m.joining = false
	}
	return !m.joining
}

// lagOf is how far a replica is behind the last known position of the primary. Age counts only while it is behind.
func (c *Cluster) lagOf(m *member) (bytes int64, lag time.Duration) {
	if m.state.Role != RoleReplica || c.lastPosition.IsZero() || c.dialect.Covers(m.state.Replayed, c.lastPosition) {
		return 0, 0
	}
	if c.lastPosition.Offset > m.state.Replayed.Offset {
		bytes = int64(c.lastPosition.Offset - m.state.Replayed.Offset)
	}
	return bytes, m.state.ReplayAge
}

func (c *Cluster) member(name string) *member {
	for _, m := range c.members {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// memberOf is nil when the node was removed, though another one of its name be there.
func (c *Cluster) memberOf(n *node) *member {
	for _, m := range c.members {
		if m.node == n {
			return m
		}
	}
	return nil
}

func (c *Cluster) statusOf(m *member) NodeStatus {
	bytes, lag := c.lagOf(m)
	inUse, idle := m.counts()
	st := m.machine.State()
	if !m.probed {
		st = health.Unknown
	}
	return NodeStatus{Name: m.Name, Zone: m.Zone, Role: m.state.Role, State: st.String(), Draining: m.draining,
		Fenced:   m.fenced,
		Position: m.state.Replayed, Received: m.state.Received, LagBytes: bytes, Lag: lag, InUse: inUse, Idle: idle,
		LastProbe: m.lastProbe, LastError: m.lastErr}
}

// noPrimary is the error of a write that found none.
func (t *topology) noPrimary() error {
	if len(t.split) > 0 {
		return fmt.Errorf("%w: %v accept writes", ErrSplitBrain, t.split)
	}
	return ErrNoPrimary
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

var errProbeTimeout = errors.New("replica: probe timed out")
