// Package advise answers the questions of whoever runs a shard.Cluster: how full is each shard (Measure), which slots
// should move where (Suggest, a shard.Plan for Cluster.Move), which key is too hot for its shard
// (shard.Cluster.HotKeys, AutoPin), and would a column spread well as the sharding key (Analyze).
//
//	plan, err := advise.Suggest(ctx, cluster, advise.Limits{Rows: 50_000_000})
//	if err != nil {
//		return err // advise.ErrNoRoom: add a shard first
//	}
//	job, err := cluster.Move(ctx, plan, shard.MoveOptions{})
package advise
