package replica

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/health"
)

// A Cluster is a primary and its replicas behind one driver.Connector. Safe for concurrent use.
type Cluster struct {
	dialect Dialect
	version func() uint64 // of the dialect's knowledge; cached classes of an older one do not count
	opts    Options
	limits  limits
	db      *sql.DB
	classes *classCache
	spill   spill
	shadow  shadow
	topo    atomic.Pointer[topology]
	n       counters
	over    atomic.Bool // closed, for the hot path

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	closing <-chan struct{}
	wg      sync.WaitGroup

	mu              sync.Mutex // guards what follows; never held during I/O or a callback
	members         []*member
	kicks           map[*node]chan struct{}
	system          string
	timeline        uint64 // the highest ever seen of a primary
	lastPrimary     *node
	lastPosition    Position
	lastSynchronous bool
	primaryLost     time.Time
	degradedSince   time.Time
	promoting       bool
	lastPromotion   *PromotionReport
	forked          Position // where the last promotion left the old primary's history
	closed          bool
	removedReads    uint64 // of nodes that were removed
}

// New starts probing the nodes and returns at once; the first statements wait for the first probes.
// Errors name the field that is wrong.
func New(d Dialect, nodes []Node, o Options) (*Cluster, error) {
	if d == nil {
		return nil, errors.New("replica: dialect is nil")
	}
	if len(nodes) == 0 {
		return nil, errors.New("replica: nodes is empty")
	}
	if o.ShadowFraction < 0 || o.ShadowFraction > 1 {
		return nil, fmt.Errorf("replica: Options.ShadowFraction %v is not between 0 and 1", o.ShadowFraction)
	}
	if p := o.Promotion; p != nil {
		if p.Lease == nil {
			return nil, errors.New("replica: Promotion.Lease is required")
		}
		if _, ok := promoter(d); !ok {
			return nil, fmt.Errorf("replica: Options.Promotion: the dialect %s cannot promote", d.Name())
		}
		if p.MaxLossBytes < 0 {
			return nil, errors.New("replica: Promotion.MaxLossBytes is negative")
		}
	}
	o = o.withDefaults()
	c := &Cluster{dialect: d, opts: o, classes: newClassCache(o.ClassCache), kicks: map[*node]chan struct{}{},
		limits: limits{maxConns: o.MaxConns, maxIdle: o.MaxIdle}, version: func() uint64 { return 0 }}
	if v, ok := d.(interface{ classVersion() uint64 }); ok {
		c.version = v.classVersion
	}
	if o.SpillLimit > 0 {
		c.spill = spill{places: make(chan struct{}, o.SpillLimit), wait: o.SpillWait}
	}
	c.shadow = shadow{fraction: o.ShadowFraction, busy: make(chan struct{}, shadowParallel)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.closing = c.ctx.Done()
	c.topo.Store(&topology{changed: make(chan struct{})})
	c.db = sql.OpenDB(c)
	// Logical connections cost nothing; keeping many of them idle avoids making them anew.
	c.db.SetMaxIdleConns(256)
	for i, n := range nodes {
		if n.Role == RoleUnknown { // for dialects without roles
			n.Role = RoleReplica
			if i == 0 {
				n.Role = RolePrimary
			}
		}
		if err := c.Add(n); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	c.wg.Go(c.janitor)
	return c, nil
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if o.Name == "" {
		o.Name = "db"
	}
	if o.MaxConns == 0 {
		o.MaxConns = 64
	}
	if o.MaxIdle == 0 {
		o.MaxIdle = 8
	}
	def(&o.MaxIdleTime, 5*time.Minute)
	if o.ProbeInterval <= 0 {
		o.ProbeInterval = 250 * time.Millisecond
	}
	if o.ProbeTimeout <= 0 {
		o.ProbeTimeout = max(o.ProbeInterval, 100*time.Millisecond)
	}
	if o.Fall <= 0 {
		o.Fall = 2
	}
	if o.Rise <= 0 {
		o.Rise = 1
	}
	def(&o.WaitBudget, 20*time.Millisecond)
	if o.SpillLimit == 0 {
		o.SpillLimit = 32
	}
	def(&o.SpillWait, time.Second)
	def(&o.PrimaryWait, 5*time.Second)
	if o.ClassCache <= 0 {
		o.ClassCache = 4096
	}
	def(&o.ReplaceAfter, time.Minute)
	return o
}

// DB returns the cluster as a *sql.DB. It is made once; Close closes it too.
func (c *Cluster) DB() *sql.DB { return c.db }

// Connect implements driver.Connector. It opens nothing yet: physical connections are borrowed per statement.
func (c *Cluster) Connect(ctx context.Context) (driver.Conn, error) {
	if c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	return &conn{c: c}, nil
}

// Driver implements driver.Connector.
func (c *Cluster) Driver() driver.Driver { return clusterDriver{c} }

type clusterDriver struct{ c *Cluster }

func (d clusterDriver) Open(string) (driver.Conn, error) { return d.c.Connect(context.Background()) }

// Close stops the probes and closes all idle physical connections. Idempotent.
func (c *Cluster) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	members := c.members
	c.over.Store(true)
	c.mu.Unlock()
	c.cancel()
	err := c.db.Close()
	for _, m := range members {
		<-m.done
		m.retire()
	}
	c.wg.Wait()
	return err
}

// WaitReady returns when a usable primary is known, or with the context's error.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for {
		t := c.topo.Load()
		if t.primary != nil {
			return nil
		}
		select {
		case <-t.changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", t.noPrimary(), ctx.Err())
		case <-c.closing:
			return ErrClosed
		}
	}
}

// Status returns the cluster as seen now.
func (c *Cluster) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topo.Load()
	s := Status{Epoch: t.epoch, SplitBrain: t.split}
	if t.primary != nil {
		s.Primary = t.primary.Name
	}
	for _, m := range c.members {
		s.Nodes = append(s.Nodes, c.statusOf(m))
	}
	if !c.degradedSince.IsZero() {
		s.Degraded = time.Since(c.degradedSince)
	}
	if c.lastPromotion != nil {
		r := *c.lastPromotion
		s.LastPromotion = &r
	}
	return s
}

// Add adds a node at run time. It serves reads once it was probed and has caught up.
func (c *Cluster) Add(n Node) error {
	if n.Name == "" {
		return errors.New("replica: Node.Name is empty")
	}
	if n.Connector == nil {
		return fmt.Errorf("replica: Node.Connector of %s is nil", n.Name)
	}
	if n.Role == RoleUnknown {
		n.Role = RoleReplica
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if c.member(n.Name) != nil {
		return fmt.Errorf("%w: %s", ErrDuplicateNode, n.Name)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	m := &member{node: newNode(n), machine: health.NewMachine(health.Config{Rise: c.opts.Rise, Fall: c.opts.Fall}), cancel: cancel, done: make(chan struct{})}
	m.joining = c.lastPrimary != nil // later than New
	c.kicks[m.node] = make(chan struct{}, 1)
	c.members = append(c.members[:len(c.members):len(c.members)], m)
	go c.probeLoop(ctx, m)
	return nil
}

// Drain stops giving the node new work and waits until its connections have been returned, or for the context.
func (c *Cluster) Drain(ctx context.Context, name string) error {
	c.mu.Lock()
	m := c.member(name)
	if m == nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrUnknownNode, name)
	}
	m.draining = true
	c.recompute(time.Now())
	c.mu.Unlock()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		m.discardIdle(0)
		if inUse, _ := m.counts(); inUse == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.closing:
			return ErrClosed
		}
	}
}

// Remove forgets a node. Connections in use are closed when they are returned.
func (c *Cluster) Remove(name string) error {
	c.mu.Lock()
	m := c.member(name)
	if m == nil {
		c.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrUnknownNode, name)
	}
	members := make([]*member, 0, len(c.members))
	for _, o := range c.members {
		if o != m {
			members = append(members, o)
		}
	}
	c.members = members
	delete(c.kicks, m.node)
	c.removedReads += m.reads.Load()
	m.gen.Add(1)
	c.recompute(time.Now())
	c.mu.Unlock()
	m.cancel()
	<-m.done
	m.retire()
	return nil
}

// janitor closes connections that have been idle for long, and asks for replacements of nodes that stay dead.
func (c *Cluster) janitor() {
	idle, replace := make(<-chan time.Time), make(<-chan time.Time) // nil options: never
	if c.opts.MaxIdleTime > 0 {
		t := time.NewTicker(max(c.opts.MaxIdleTime/4, time.Millisecond))
		defer t.Stop()
		idle = t.C
	}
	if c.opts.Replace != nil {
		t := time.NewTicker(max(c.opts.ReplaceAfter/4, 10*time.Millisecond))
		defer t.Stop()
		replace = t.C
	}
	for {
		select {
		case <-idle:
			c.mu.Lock()
			members := c.members
			c.mu.Unlock()
			for _, m := range members {
				m.tick.Add(1)
				m.discardIdle(4)
			}
		case <-replace:
			c.askReplacements()
		case <-c.closing:
			return
		}
	}
}

func (c *Cluster) askReplacements() {
	c.mu.Lock()
	var dead []NodeStatus
	for _, m := range c.members {
		if !m.replaced && !m.downSince.IsZero() && time.Since(m.downSince) >= c.opts.ReplaceAfter {
			m.replaced = true
			dead = append(dead, c.statusOf(m))
		}
	}
	c.mu.Unlock()
	for _, st := range dead {
		c.wg.Go(func() { c.opts.Replace(c.ctx, st) })
	}
}

// kick is the channel that makes a node's prober ask at once.
func (c *Cluster) kick(n *node) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kicks[n]
}

func (c *Cluster) probeNow(n *node) {
	c.mu.Lock()
	ch := c.kicks[n]
	c.mu.Unlock()
	select {
	case ch <- struct{}{}:
	default:
	}
}

// class returns what is known of a query text.
func (c *Cluster) class(query string) *classEntry {
	v := c.version()
	if e := c.classes.get(query, v); e != nil {
		return e
	}
	c.n.classMisses.Add(1)
	e := &classEntry{query: query, verdict: c.dialect.Classify(query), version: v}
	c.classes.put(e)
	return e
}

// Explanation says where a statement goes and why.
type Explanation struct {
	Class  Class
	Reason string
	// Learned: the statement was once refused by a replica and goes to the primary since.
	Learned bool
	// Nodes it may run on now, the usual first choice first.
	Nodes []string
}

// Explain says where a statement would go without a session or override.
func (c *Cluster) Explain(query string) Explanation {
	e := c.class(query)
	x := Explanation{Class: e.verdict.Class, Reason: e.verdict.Reason, Learned: e.learned}
	t := c.topo.Load()
	if x.Class == ClassRead {
		for i := range t.readable {
			x.Nodes = append(x.Nodes, t.readable[i].node.Name)
		}
	}
	if len(x.Nodes) == 0 && t.primary != nil {
		x.Nodes = []string{t.primary.Name}
	}
	return x
}
