package shard

// Stats are counters since New.
type Stats struct {
	Routed     uint64 `metric:"routed_total,counter,Operations routed by key"`
	Refused    uint64 `metric:"refused_total,counter,Attempts refused by a fence or a stale map and repeated"`
	CrossShard uint64 `metric:"cross_shard_total,counter,Keys of another shard refused inside a transaction"`
	Asked      uint64 `metric:"asked_total,counter,Questions to a shard whether it owns a slot, outside of transactions"`
	Unknown    uint64 `metric:"unknown_total,counter,Operations that ended with ErrOutcomeUnknown"`
	Scatters   uint64 `metric:"scatters_total,counter,Queries sent to all shards"`
	MapEpoch   uint64 `metric:"map_epoch,gauge,Epoch of the map in use"`
	Moving     int    `metric:"moving_slots,gauge,Slots of the job in progress that are not handed over"`
	Shards     []ShardStats
}

// ShardStats are the figures of one shard.
type ShardStats struct {
	Shard  string `label:"shard"`
	Routed uint64 `metric:"shard_routed_total,counter,Operations routed to the shard"`
	Slots  int    `metric:"shard_slots,gauge,Slots owned"`
}

// Stats returns the counters. Cheap, safe at any time.
func (c *Cluster) Stats() Stats {
	v := c.view.Load()
	s := Stats{Routed: c.n.routed.Load(), Refused: c.n.refused.Load(), CrossShard: c.n.crossShard.Load(),
		Asked: c.n.asked.Load(), Unknown: c.n.unknown.Load(), Scatters: c.n.scatters.Load(), MapEpoch: v.Epoch()}
	if j := v.st.Job; j != nil {
		s.Moving = len(j.Moves) - j.Done
	}
	counts := v.Counts()
	for _, sh := range v.dbs {
		s.Shards = append(s.Shards, ShardStats{Shard: string(sh.ID), Routed: sh.routed.Load(), Slots: counts[sh.ID]})
	}
	return s
}
