package assemble

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/drill/gate"
	"github.com/tierkit/tierkit/examples/fullstack/site"
	"github.com/tierkit/tierkit/examples/fullstack/standin/sqlite"
	"github.com/tierkit/tierkit/examples/fullstack/xray"
	"github.com/tierkit/tierkit/replica"
	"github.com/tierkit/tierkit/shard"
)

// data is the database tier: two shards, each a primary with two replicas in three failure domains. Every center
// reaches them through replica clusters of its own, as its web servers would from their own processes.
type data struct {
	shards   []*shardNodes
	clusters map[string]*shard.Cluster // by center
	replicas []*replica.Cluster
}

// shardNodes are the nodes of one shard.
type shardNodes struct {
	id     string
	ship   *sqlite.Cluster
	gates  map[string]*gate.Gate // by node
	cut    atomic.Pointer[string]
	byZone map[string]*replica.Cluster
}

func nodeID(shard, zone string) string { return shard + "-" + zone }

func (s *Stack) openData(ctx context.Context) error {
	d := &data{clusters: map[string]*shard.Cluster{}}
	// so that what is open is closed when a later step fails
	s.data = d
	// the first is the primary of a new shard
	for i, zones := range [][]string{{East, West, Witness}, {West, East, Witness}} {
		sn := &shardNodes{id: fmt.Sprintf("s%d", i+1), gates: map[string]*gate.Gate{},
			byZone: map[string]*replica.Cluster{}}
		o := sqlite.Options{Name: sn.id, Dir: filepath.Join(s.o.Dir, "db", sn.id),
			CommitTimeout: 800 * time.Millisecond, NoFsync: false}
		o.Link = func(_ context.Context, from, to string) error {
			if cut := sn.cut.Load(); cut != nil && (*cut == from || *cut == to) {
				return errors.New("link is cut")
			}
			return nil
		}
		for _, z := range zones {
			g := gate.New()
			sn.gates[nodeID(sn.id, z)] = g
			o.Nodes = append(o.Nodes, sqlite.NodeConfig{ID: nodeID(sn.id, z), Zone: z, Gate: g})
		}
		var err error
		if sn.ship, err = sqlite.Open(o); err != nil {
			return err
		}
		d.shards = append(d.shards, sn)
	}
	store, lease := shard.MemoryStore(), replica.MemoryLease()
	for _, zone := range []string{East, West} {
		var shards []shard.Shard
		for _, sn := range d.shards {
			rc, err := sn.connect(s, zone, lease)
			if err != nil {
				return err
			}
			d.replicas = append(d.replicas, rc)
			sn.byZone[zone] = rc
			ready, cancel := context.WithTimeout(ctx, 10*time.Second)
			err = rc.WaitReady(ready)
			cancel()
			if err != nil {
				return fmt.Errorf("shard %s: %w", sn.id, err)
			}
			shards = append(shards, shard.Shard{ID: shard.ID(sn.id), DB: rc.DB()})
		}
		sc, err := shard.New(ctx, store, shards,
			shard.Options{Dialect: shard.SQLite(), Tables: site.Tables, Retry: 3 * time.Second, Logger: s.log})
		if err != nil {
			return err
		}
		d.clusters[zone] = sc
	}
	if err := site.Migrate(ctx, d.clusters[East]); err != nil {
		return err
	}
	if err := site.Seed(ctx, d.clusters[East], s.o.Catalog); err != nil {
		return err
	}
	for _, sn := range d.shards { // a replica without the tables can't serve yet
		if err := sn.ship.Quiesce(ctx); err != nil {
			return err
		}
	}
	return nil
}

// connect opens one center's view of a shard.
func (sn *shardNodes) connect(s *Stack, zone string, lease replica.Lease) (*replica.Cluster, error) {
	dialect := sn.ship.Dialect()
	if s.o.Mutant == PromoteLaggard {
		dialect = laggardFirst{dialect, dialect.(replica.Promoter)}
	}
	return replica.New(dialect, sn.ship.Replicas(), replica.Options{
		Name: sn.id, Zone: zone, ProbeInterval: 100 * time.Millisecond, ProbeTimeout: 150 * time.Millisecond, Fall: 2,
		MaxLag:    2 * time.Second,
		Promotion: &replica.Promotion{Lease: lease, LeaseTTL: 5 * time.Second, Timeout: 5 * time.Second},
		Hooks: &replica.Hooks{
			Routed: func(ctx context.Context, r replica.Route) { xray.Asked(ctx, r.Node, r.Role.String()) },
			NodeChanged: func(before, after replica.NodeStatus) {
				if before.State != after.State || before.Role != after.Role {
					kind := "recovery"
					if after.State == "down" {
						kind = "failure"
					}
					s.Event(kind, fmt.Sprintf("%s sees database node %s: %s, %s", zone, after.Name, after.State,
						after.Role))
				}
			},
			Promoted: func(r replica.PromotionReport, err error) {
				if err != nil {
					s.log.Info("promotion", "shard", sn.id, "by", zone, "err", err.Error())
					return
				}
				s.Event("recovery", fmt.Sprintf("%s promoted %s in %v", zone, r.To, r.Took.Round(time.Millisecond)))
			},
		},
	})
}

// laggardFirst is the defect of PromoteLaggard: standbys report their positions upside down.
type laggardFirst struct {
	replica.Dialect
	replica.Promoter
}

func (l laggardFirst) Cut(ctx context.Context, c driver.Conn) (replica.NodeState, error) {
	st, err := l.Promoter.Cut(ctx, c)
	st.Received.Offset, st.Replayed.Offset = 1<<40-st.Received.Offset, 1<<40-st.Replayed.Offset
	return st, err
}

// primary is the node that accepts writes now, as the databases themselves know.
func (sn *shardNodes) primary() string {
	best, epoch := "", uint64(0)
	for _, n := range sn.ship.Nodes() {
		if st := n.Status(); st.Primary && !st.Stopped && st.Epoch >= epoch && sn.gates[st.ID].State() == gate.Open {
			best, epoch = st.ID, st.Epoch
		}
	}
	return best
}

func (d *data) shard(id string) *shardNodes {
	for _, sn := range d.shards {
		if sn.id == id {
			return sn
		}
	}
	return nil
}

// restart brings a killed database node back, rebuilt where it had been the primary.
func (sn *shardNodes) restart(ctx context.Context, node string) error {
	return sn.ship.Restart(ctx, node)
}

// Checksums waits until all nodes have applied everything and compares their contents.
func (d *data) checksums(ctx context.Context) (equal bool, err error) {
	equal = true
	for _, sn := range d.shards {
		if err := sn.ship.Quiesce(ctx); err != nil {
			return false, err
		}
		sums, err := sn.ship.Checksums(ctx)
		if err != nil {
			return false, err
		}
		var all []string
		for _, s := range sums {
			all = append(all, s)
		}
		slices.Sort(all)
		equal = equal && len(slices.Compact(all)) == 1 && len(sums) == len(sn.gates)
	}
	return equal, nil
}

func (d *data) close() error {
	var errs []error
	for _, c := range d.clusters {
		errs = append(errs, c.Close())
	}
	for _, r := range d.replicas {
		errs = append(errs, r.Close())
	}
	for _, sn := range d.shards {
		errs = append(errs, sn.ship.Close())
	}
	return errors.Join(errs...)
}
