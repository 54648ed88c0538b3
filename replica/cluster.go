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
	lastTimeline    uint64
	lastSynchronous bool
	left            *node             // a primary that was removed while it was up: nobody lost it
	chosen          *member           // was told to become the primary, and has not answered
	overlays        map[string]uint64 // of nodes that were removed
	primaryLost     time.Time
	degradedSince   time.Time
	promoting       bool
	lastPromotion   *PromotionReport
	forked          Position // where the last promotion left the old primary's history
	closed          bool
	// all nodes were probed at some time: before, the first who says that he is the primary may be a former one
	surveyed     bool
	removedReads uint64 // of nodes that were removed
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
		if err := c.add(n, false); err != nil {
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
