package shard

import "time"

// Stats are counters since New, and gauges.
type Stats struct {
	Routed     uint64 `metric:"routed_total,counter,Operations routed by key"`
	Refused    uint64 `metric:"refused_total,counter,Attempts refused by a fence or a stale map and repeated"`
	CrossShard uint64 `metric:"cross_shard_total,counter,Keys of another shard refused inside a transaction"`
	Asked      uint64 `metric:"asked_total,counter,Questions to a shard outside of transactions whether it owns a slot"`
	Unknown    uint64 `metric:"unknown_total,counter,Operations that ended with ErrOutcomeUnknown"`
	Scatters   uint64 `metric:"scatters_total,counter,Queries sent to all shards"`
	// RefreshErrors are failed reads and watches of the map, JobErrors failed steps of jobs of this process, HookErrors
	// calls of hooks that panicked or were left out. Each has its last error and when.
	RefreshErrors      uint64 `metric:"refresh_errors_total,counter,Failed reads and watches of the map"`
	LastRefreshError   string
	LastRefreshErrorAt time.Time
	JobErrors          uint64 `metric:"job_errors_total,counter,Failed steps of jobs"`
	LastJobError       string
	LastJobErrorAt     time.Time
	HookErrors         uint64 `metric:"hook_errors_total,counter,Hook calls that panicked or were left out"`
	LastHookError      string
	LastHookErrorAt    time.Time
	MapEpoch           int64 `metric:"map_epoch,gauge,Epoch of the map in use"`
	Moving             int64 `metric:"moving_slots,gauge,Slots of the job in progress that are not handed over"`
	// Shards has all shards that the cluster knows, by ID.
	Shards []ShardStats
}

// ShardStats are the figures of one shard.
type ShardStats struct {
	Shard  string `label:"shard"`
	Routed uint64 `metric:"shard_routed_total,counter,Operations routed to the shard"`
	Slots  int64  `metric:"shard_slots,gauge,Slots owned"`
}

// Stats returns the counters. It is cheap and safe for concurrent use.
func (c *Cluster) Stats() Stats {
	v := c.view.Load()
	s := Stats{Routed: c.n.routed.Load(), Refused: c.n.refused.Load(), CrossShard: c.n.crossShard.Load(),
		Asked: c.n.asked.Load(), Unknown: c.n.unknown.Load(), Scatters: c.n.scatters.Load(), MapEpoch: int64(v.Epoch())}
	s.RefreshErrors, s.LastRefreshError, s.LastRefreshErrorAt = c.refreshErrors.Load()
	s.JobErrors, s.LastJobError, s.LastJobErrorAt = c.jobErrors.Load()
	s.HookErrors, s.LastHookError, s.LastHookErrorAt = c.hookErrors.Load()
	if j := v.st.Job; j != nil {
		s.Moving = int64(len(j.Moves) - j.Done)
	}
	counts := v.Counts()
	for _, sh := range c.known() {
		s.Shards = append(s.Shards, ShardStats{Shard: string(sh.ID), Routed: sh.routed.Load(),
			Slots: int64(counts[sh.ID])})
	}
	return s
}
