package replica

import (
	"context"
	"sync"
	"time"
)

// strays are the standbys that a promotion may have cut off and has not told whom to follow: because they did not
// answer then, or the promotion itself did not end. Left alone they would follow nobody for ever. Called with c.mu
// held.
func (c *Cluster) strays() (found []*member) {
	primary := c.topo.Load().primary
	if primary == nil {
		return nil
	}
	for _, m := range c.members {
		if m.astray && m.node == primary {
			m.astray = false
		}
		if m.astray && m.up() && m.state.Role == RoleReplica && m.fenced == "" && !time.Now().Before(m.tellAt) {
			found = append(found, m)
		}
	}
	return found
}

// repoint points the strays to the primary. It holds the lease, so that no other process cuts them off at the same
// time.
func (c *Cluster) repoint() {
	defer c.promotingEnds()
	ctx, cancel := context.WithTimeout(c.ctx, 2*c.patience())
	defer cancel()
	ctx, _, release, err := c.lease(ctx)
	c.mu.Lock()
	primary, strays := c.topo.Load().primary, c.strays()
	for _, m := range strays { // again later, unless it works
		m.tellAfter = min(max(2*m.tellAfter, time.Second), time.Minute)
		m.tellAt = time.Now().Add(m.tellAfter)
	}
	c.mu.Unlock()
	if err != nil {
		return
	}
	defer release()
	p, _ := promoter(c.dialect)
	var wg sync.WaitGroup
	for _, m := range strays {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, c.patience())
			defer cancel()
			conn, err := m.admin().Connect(ctx)
			if err != nil {
				return
			}
			defer conn.Close()
			if p.Follow(ctx, conn, primary.Node) == nil {
				c.mu.Lock()
				m.astray, m.tellAfter = false, 0
				c.mu.Unlock()
			}
		})
	}
	wg.Wait()
}
