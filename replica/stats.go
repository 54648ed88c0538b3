package replica

import "sync/atomic"

// Stats are counters since New and gauges of now.
type Stats struct {
	ReadsReplica  uint64 `metric:"reads_replica_total,counter,Reads served by replicas"`
	ReadsPrimary  uint64 `metric:"reads_primary_total,counter,Reads served by the primary because the statement or its context asked for it"`
	Spilled       uint64 `metric:"reads_spilled_total,counter,Reads served by the primary because no replica could"`
	SpillRefused  uint64 `metric:"spill_refused_total,counter,Reads refused because the primary was full of spilled reads"`
	Writes        uint64 `metric:"writes_total,counter,Statements and transactions sent to the primary to write"`
	Healed        uint64 `metric:"healed_total,counter,Statements refused by a replica and run on the primary"`
	Retried       uint64 `metric:"retried_total,counter,Reads repeated on another node after a connection was refused or lost"`
	TokenHits     uint64 `metric:"token_hits_total,counter,Reads of sessions that found a fresh replica without waiting"`
	TokenWaits    uint64 `metric:"token_waits_total,counter,Reads of sessions that waited on a replica"`
	TokenMisses   uint64 `metric:"token_misses_total,counter,Reads of sessions that went to the primary because no replica was fresh in time"`
	TokensRefused uint64 `metric:"tokens_refused_total,counter,Positions of foreign systems or from the future that were ignored"`
	ClassMisses   uint64 `metric:"class_misses_total,counter,Query texts that had to be classified"`
	Discarded     uint64 `metric:"conns_discarded_total,counter,Pooled connections closed because their node changed"`
	Promotions    uint64 `metric:"promotions_total,counter,Promotions made by this process"`
	ShadowReads   uint64 `metric:"shadow_reads_total,counter,Replica reads repeated on the primary"`
	ShadowDiffs   uint64 `metric:"shadow_differences_total,counter,Repeated reads that differed"`
	Nodes         []NodeStats
}

// NodeStats are the figures of one node.
type NodeStats struct {
	Node       string  `label:"node"`
	Reads      uint64  `metric:"node_reads_total,counter,Reads served"`
	Writes     uint64  `metric:"node_writes_total,counter,Writes served"`
	Errors     uint64  `metric:"node_errors_total,counter,Connections refused or lost"`
	Opened     uint64  `metric:"node_conns_opened_total,counter,Physical connections opened"`
	InUse      int     `metric:"node_conns_in_use,gauge,Physical connections borrowed"`
	Idle       int     `metric:"node_conns_idle,gauge,Physical connections idle"`
	LagSeconds float64 `metric:"node_lag_seconds,gauge,Replication lag, 0 when not behind"`
	LagBytes   int64   `metric:"node_lag_bytes,gauge,Replication lag in bytes of log"`
	Up         int     `metric:"node_up,gauge,1 when usable"`
	Primary    int     `metric:"node_primary,gauge,1 on the primary"`
}

// Stats returns the counters. Cheap, safe at any time.
func (c *Cluster) Stats() Stats {
	s := Stats{
		ReadsPrimary: c.n.readsPrimary.Load(), Spilled: c.n.spilled.Load(), SpillRefused: c.n.spillRefused.Load(),
		Writes: c.n.writes.Load(), Healed: c.n.healed.Load(), Retried: c.n.retried.Load(),
		TokenHits: c.n.tokenHits.Load(), TokenWaits: c.n.tokenWaits.Load(),
		TokenMisses: c.n.tokenMisses.Load(), TokensRefused: c.n.tokensRefused.Load(),
		ClassMisses: c.n.classMisses.Load(), Discarded: c.n.discarded.Load(),
		Promotions: c.n.promotions.Load(), ShadowReads: c.n.shadowReads.Load(), ShadowDiffs: c.n.shadowDiffs.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	primary := c.topo.Load().primary
	// Counted once, at the node: reads on replicas are all but those that ran on a primary.
	s.ReadsReplica = c.removedReads
	for _, m := range c.members {
		bytes, lag := c.lagOf(m)
		inUse, idle := m.counts()
		s.ReadsReplica += m.reads.Load()
		s.Nodes = append(s.Nodes, NodeStats{Node: m.Name, Reads: m.reads.Load(), Writes: m.writes.Load(),
			Errors: m.errors.Load(), Opened: m.opened.Load(),
			InUse: inUse, Idle: idle, LagSeconds: lag.Seconds(), LagBytes: bytes, Up: btoi(m.up() && m.fenced == ""),
			Primary: btoi(m.node == primary)})
	}
	s.ReadsReplica -= min(c.n.readsAll.Load(), s.ReadsReplica)
	return s
}

// counters: readsAll counts those that ran on a primary, for whatever reason.
type counters struct {
	readsAll, readsPrimary, spilled, spillRefused, writes, healed, retried    atomic.Uint64
	tokenHits, tokenWaits, tokenMisses, tokensRefused, classMisses, discarded atomic.Uint64
	promotions, shadowReads, shadowDiffs                                      atomic.Uint64
}
