package advise

import (
	"cmp"
	"slices"

	"github.com/tierkit/tierkit/shard"
)

// Skew says how evenly a candidate for the sharding key would spread.
type Skew struct {
	Keys int // in the sample
	// Distinct keys. Few of them cannot spread, whatever the hash.
	Distinct int
	// MaxShard and MaxSlot are the fullest shard's and slot's part divided by the mean: 1 is even.
	MaxShard, MaxSlot float64
	// Hottest are the keys that occur most often, with their share of the sample; one above 1/shards cannot be balanced
	// by moving slots, only by pinning or splitting the key.
	Hottest []shard.HotKey
}

// Analyze places a sample of keys, one per row or request, and reports the skew.
func Analyze(m *shard.Map, sample []shard.Key) Skew {
	s := Skew{Keys: len(sample)}
	if len(sample) == 0 {
		return s
	}
	ids := m.Shards()
	shards := map[shard.ID]int{}
	slots := map[shard.Slot]int{}
	counts := map[shard.Key]int{}
	for _, k := range sample {
		slot := m.SlotOf(k)
		slots[slot]++
		if id := m.Owner(slot); id != "" {
			shards[id]++
		}
		counts[k]++
	}
	s.Distinct = len(counts)
	for _, n := range shards {
		s.MaxShard = max(s.MaxShard, float64(n)*float64(len(ids))/float64(len(sample)))
	}
	for _, n := range slots {
		s.MaxSlot = max(s.MaxSlot, float64(n)*float64(m.Slots())/float64(len(sample)))
	}
	for k, n := range counts {
		slot := m.SlotOf(k)
		s.Hottest = append(s.Hottest, shard.HotKey{Key: k, Shard: m.Owner(slot), Slot: slot, Count: uint64(n),
			Share: float64(n) / float64(len(sample))})
	}
	slices.SortFunc(s.Hottest, func(a, b shard.HotKey) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key.String(), b.Key.String()))
	})
	s.Hottest = s.Hottest[:min(10, len(s.Hottest))]
	return s
}
