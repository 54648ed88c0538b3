package replica

import (
	"bytes"
	"context"
	"database/sql/driver"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

// shadowParallel bounds the comparisons that run at one time; a read that comes when all are busy is not compared.
const shadowParallel = 4

// shadow compares some of the reads on replicas with the primary, in the background: data that is silently different is
// what replication monitoring cannot see. The rows that the caller gets are not touched; both nodes are asked again. A
// difference counts only if it is still there once the replica has reached the primary's position.
type shadow struct {
	fraction float64
	busy     chan struct{}
}

func (c *Cluster) maybeShadow(n *node, s *statement) {
	if c.shadow.fraction == 0 || rand.Float64() >= c.shadow.fraction {
		return
	}
	select {
	case c.shadow.busy <- struct{}{}:
	default:
		return
	}
	query, args := s.query, slices.Clone(s.args)
	for i, a := range args {
		if b, ok := a.Value.([]byte); ok {
			args[i].Value = bytes.Clone(b)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		<-c.shadow.busy
		return
	}
	c.wg.Go(func() {
		defer func() { <-c.shadow.busy }()
		ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
		defer cancel()
		differ, err := c.compare(ctx, n, query, args)
		if err != nil {
			return // a node went away: nothing can be said
		}
		c.n.shadowReads.Add(1)
		if differ {
			c.n.shadowDiffs.Add(1)
		}
	})
}

func (c *Cluster) compare(ctx context.Context, replica *node, query string, args []driver.NamedValue) (differ bool,
	err error) {
	primary := c.topo.Load().primary
	if primary == nil {
		return false, ErrNoPrimary
	}
	rp, err := replica.borrow(ctx, &c.limits)
	if err != nil {
		return false, err
	}
	defer replica.giveBack(rp, &c.limits)
	pp, err := primary.borrow(ctx, &c.limits)
	if err != nil {
		return false, err
	}
	defer primary.giveBack(pp, &c.limits)
	for range 3 {
		a, err := digest(ctx, rp, query, args)
		if err != nil {
			rp.broken = true
			return false, err
		}
		b, err := digest(ctx, pp, query, args)
		if err != nil {
			pp.broken = true
			return false, err
		}
		if a == b {
			return false, nil
		}
		pos, err := c.dialect.Capture(ctx, pp.conn)
		if err != nil {
			return false, err
		}
		if ok, err := c.dialect.Reached(ctx, rp.conn, pos, time.Second); err != nil || !ok {
			return false, fmt.Errorf("replica: %s did not catch up: %w", replica.Name, err)
		}
	}
	return true, nil
}

// digest hashes the rows whatever their order: without ORDER BY nodes may differ in it rightly.
func digest(ctx context.Context, p *phys, query string, args []driver.NamedValue) (sum uint64, err error) {
	rows, err := p.query(ctx, query, slices.Clone(args))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	vals := make([]driver.Value, len(rows.Columns()))
	for n := uint64(1); ; n++ {
		switch err := rows.Next(vals); err {
		case nil:
			h := fnv.New64a()
			fmt.Fprintf(h, "%q", vals)
			sum += h.Sum64()
		case io.EOF:
			return sum + n, nil
		default:
			return 0, err
		}
	}
}
