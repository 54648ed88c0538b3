package assemble

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/lb"
)

// What follows tells how the tiers see each other: whether a failure was noticed, and whether its work goes on
// elsewhere.

// lookup resolves the site's name at one name server, or at the other should it not answer, as a client does.
func (s *Stack) lookup(first *nameServer) bool {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(Host), dns.TypeA)
	for _, n := range append([]*nameServer{first}, s.names...) {
		c := dns.Client{Timeout: 250 * time.Millisecond}
		if a, _, err := c.Exchange(q, n.srv.Addr().String()); err == nil && len(a.Answer) > 0 {
			return n == first
		}
	}
	return false
}

// edgesUse asks the edges that are alive about a balancer.
func (s *Stack) edgesUse(id string) (some, all bool) {
	all = true
	for _, c := range s.centers {
		for _, e := range c.edges {
			if e.alive() {
				u := uses(e.up, id)
				some, all = some || u, all && u
			}
		}
	}
	return some, all
}

// balancersUse asks the balancers of the center that are alive about a web server.
func (c *center) balancersUse(id string) (some, all bool) {
	all = true
	for _, b := range c.lbs {
		if b.alive() {
			u := uses(b.lb, id)
			some, all = some || u, all && u
		}
	}
	return some, all
}

func uses(b *lb.Balancer, id string) bool {
	for _, x := range b.Backends() {
		if x.ID() == id {
			return x.State() == lb.StateUp
		}
	}
	return false
}

// CacheTrouble counts what first cache tiers noticed of a second one that fails.
func (s *Stack) CacheTrouble() (n int64) {
	for _, c := range s.centers {
		for _, w := range c.servers() {
			st := w.tiered.Stats()
			n += st.RemoteErrors + st.Untrusted
		}
	}
	return n
}

// KillWorkerMidJob kills the workers of the center whose next batch of views is being counted.
func (s *Stack) KillWorkerMidJob(ctx context.Context) error {
	select {
	case c := <-s.midJob:
		for _, p := range c.pools {
			p.pool.Kill(1 << 20)
		}
		return nil
	case <-time.After(5 * time.Second):
		return errors.New("no worker was at work within 5 s")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// LeasesExpired counts the queue's leases that ended without a settlement: a worker was lost.
func (s *Stack) LeasesExpired() int64 { return s.queue.Stats().LeaseExpired }

// ShardIDs lists the shards.
func (s *Stack) ShardIDs() []string {
	var ids []string
	for _, sn := range s.data.shards {
		ids = append(ids, sn.id)
	}
	return ids
}

// Primary returns the node of a shard that accepts writes now, "" if there is none.
func (s *Stack) Primary(shard string) string {
	if sn := s.data.shard(shard); sn != nil {
		return sn.primary()
	}
	return ""
}

// Replica returns a node of a shard that is no primary, in the given zone if there is one.
func (s *Stack) Replica(shard, zone string) string {
	sn := s.data.shard(shard)
	if sn == nil {
		return ""
	}
	primary, other := sn.primary(), ""
	for _, n := range sn.ship.Nodes() {
		switch {
		case n.ID() == primary || n.Gate().State() != gate.Open:
		case n.Zone() == zone:
			return n.ID()
		default:
			other = n.ID()
		}
	}
	return other
}

// KillPrimary kills the primary of a shard while one of its standbys is behind, so that taking just any standby would
// lose acknowledged writes. It returns the node's name.
func (s *Stack) KillPrimary(ctx context.Context, shard string) (string, error) {
	sn := s.data.shard(shard)
	primary := s.Primary(shard)
	if primary == "" {
		return "", fmt.Errorf("shard %s has no primary", shard)
	}
	behind := sn.standby(primary)
	sn.cut.Store(&behind)
	if err := sn.fallBehind(ctx, primary, behind); err != nil {
		return primary, err
	}
	sn.gates[primary].Kill()
	sn.cut.Store(nil) // nothing is sent any more that the standby could catch up with
	return primary, nil
}

// Writable reports whether a shard accepts a write.
func (s *Stack) Writable(ctx context.Context, shard string) bool {
	sn := s.data.shard(shard)
	if sn == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := sn.byZone[West].DB().ExecContext(ctx, `DELETE FROM writes WHERE id = ?`, "no such write")
	return err == nil
}

// ShardWhole reports whether every node of a shard serves again, as both data centers see it.
func (s *Stack) ShardWhole(shard string) bool {
	sn := s.data.shard(shard)
	return sn != nil && sn.whole()
}

// whole reports whether every node serves again, as both centers see it.
func (sn *shardNodes) whole() bool {
	if sn.primary() == "" {
		return false
	}
	for _, rc := range sn.byZone {
		for _, n := range rc.Status().Nodes {
			if n.State != "up" || n.Fenced != "" {
				return false
			}
		}
	}
	return true
}

// seenUp asks both data centers about a database node.
func (sn *shardNodes) seenUp(node string) (some, all bool) {
	east, west := sn.state(East, node) == "up", sn.state(West, node) == "up"
	return east || west, east && west
}

// state is how one center sees a database node.
func (sn *shardNodes) state(zone, node string) string {
	for _, n := range sn.byZone[zone].Status().Nodes {
		if n.Name == node {
			return n.State
		}
	}
	return ""
}

// standby picks the standby that is to fall behind, preferring the nearest to the front of a careless list.
func (sn *shardNodes) standby(primary string) string {
	for _, n := range sn.ship.Nodes() {
		if n.ID() != primary && sn.gates[n.ID()].State() == gate.Open {
			return n.ID()
		}
	}
	return ""
}

// fallBehind waits until acknowledged writes have reached the other standby but not this one.
func (sn *shardNodes) fallBehind(ctx context.Context, primary, behind string) error {
	start := sn.ship.Node(behind).Status().Received
	for wait := time.Now(); time.Since(wait) < 5*time.Second; {
		if sn.ship.Node(primary).Status().Received >= start+5 {
			return nil
		}
		if err := backoff.Sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("no writes on shard %s within 5 s", sn.id)
}
