package assemble

import (
	"context"
	"time"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cdn"
	"github.com/tierkit/tierkit/metrics"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/shard"
)

// Figures are what the tiers counted.
type Figures struct {
	Tiers   map[string]metrics.HistogramSnapshot // edge, lb, web
	EdgeSum cdn.Stats
	Webs    map[string]uint64 // requests per web server
	Cache   cache.TieredStats
	Reads   map[string]uint64 // per database node
	Writes  map[string]uint64
	Queue   queue.Stats
	Moves   int64 // of the autoscalers
	DNS     uint64
}

// Figures reads the counters of all parts.
func (s *Stack) Figures() Figures {
	f := Figures{Tiers: map[string]metrics.HistogramSnapshot{}, Webs: map[string]uint64{},
		Reads: map[string]uint64{}, Writes: map[string]uint64{}, Queue: s.queue.Stats(), Moves: s.moves.Load()}
	for name, t := range s.tiers {
		f.Tiers[name] = t.Stats().Took
	}
	for _, c := range s.centers {
		for _, e := range c.edges {
			st := e.cache.Stats()
			f.EdgeSum.Hits += st.Hits
			f.EdgeSum.Stale += st.Stale
			f.EdgeSum.Revalidated += st.Revalidated
			f.EdgeSum.Misses += st.Misses
			f.EdgeSum.Collapsed += st.Collapsed
			f.EdgeSum.Bypassed += st.Bypassed
			f.EdgeSum.BytesOut += st.BytesOut
			f.EdgeSum.BytesIn += st.BytesIn
		}
		c.mu.Lock()
		for _, w := range c.webs {
			f.Webs[w.name] = w.requests.Load()
			st := w.tiered.Stats()
			f.Cache.L1Hits += st.L1Hits
			f.Cache.L2Hits += st.L2Hits
			f.Cache.Loads += st.Loads
			f.Cache.RemoteErrors += st.RemoteErrors
		}
		c.mu.Unlock()
	}
	for _, sn := range s.data.shards {
		for _, rc := range sn.byZone {
			for _, n := range rc.Stats().Nodes {
				f.Reads[n.Node] += n.Reads
				f.Writes[n.Node] += n.Writes
			}
		}
	}
	for _, n := range s.names {
		f.DNS += n.srv.Stats().Queries
	}
	return f
}

// Shards gives the books access to the databases.
func (s *Stack) Shards() *shard.Cluster { return s.data.clusters[West] }

// ReplicasEqual waits until all nodes of each shard have applied everything, and compares their contents.
func (s *Stack) ReplicasEqual(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return s.data.checksums(ctx)
}
