package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func equal(n int) []Node {
	ns := make([]Node, n)
	for i := range ns {
		ns[i] = Node{ID: fmt.Sprintf("node-%d", i), Weight: 1}
	}
	return ns
}

func TestAddingNode101Moves162Slots(t *testing.T) {
	t100, first, err := Rebalance(nil, 16384, equal(100))
	require.NoError(t, err)
	require.Len(t, first, 16384)
	t101, moves, err := Rebalance(t100, 16384, equal(101))
	require.NoError(t, err)
	require.Len(t, moves, 162)
	for _, m := range moves {
		require.Equal(t, "node-100", m.To, "nothing moves between old nodes")
	}
	c := t101.Counts()
	require.LessOrEqual(t, slices.Max(c)-slices.Min(c), 1)
}

func randomNodes(t *rapid.T, label string) []Node {
	ids := rapid.SliceOfNDistinct(rapid.IntRange(0, 30), 1, 12, rapid.ID[int]).Draw(t, label)
	ns := make([]Node, len(ids))
	for i, id := range ids {
		ns[i] = Node{ID: fmt.Sprint("n", id), Weight: float64(rapid.IntRange(0, 5).Draw(t, "w"))}
	}
	ns[0].Weight = 1
	return ns
}

func TestRebalanceMovesTheMinimum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.SampledFrom([]int{16, 100, 1024}).Draw(t, "slots")
		a := randomNodes(t, "a")
		b := randomNodes(t, "b")
		ta, _, err := Rebalance(nil, slots, a)
		require.NoError(t, err)
		tb, moves, err := Rebalance(ta, slots, b)
		require.NoError(t, err)

		var sum float64
		for _, n := range b {
			sum += n.Weight
		}
		before := map[string]int{}
		for i, c := range ta.Counts() {
			before[a[i].ID] = c
		}
		need := 0 // what nodes must receive: the fewest moves any table with these counts can have
		for i, c := range tb.Counts() {
			exact := float64(slots) * b[i].Weight / sum
			require.Less(t, math.Abs(float64(c)-exact), 1.0, "quota of %s", b[i].ID)
			need += max(0, c-before[b[i].ID])
		}
		require.Len(t, moves, need)
		for _, m := range moves {
			require.Equal(t, ta.OwnerID(m.Slot), m.From)
			require.Equal(t, tb.OwnerID(m.Slot), m.To)
			require.NotEqual(t, m.From, m.To)
		}
		_, again, err := Rebalance(tb, slots, b)
		require.NoError(t, err)
		require.Empty(t, again, "a balanced table stays")
	})
}

// Whatever the order of arrivals, departures and re-weighting, processes agree: With equals Derive of the final set.
func TestDeriveDependsOnTheSetAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cur, err := Derive(256, nil)
		require.NoError(t, err)
		var set []Node
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			set = randomNodes(t, "set")
			cur, err = cur.With(set)
			require.NoError(t, err)
		}
		rand.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
		want, err := Derive(256, set)
		require.NoError(t, err)
		require.Equal(t, want.owner, cur.owner)
		require.Equal(t, want.nodes, cur.nodes)
		for slot := range 16 {
			rank := want.Rank(slot, 0)
			require.Len(t, rank, len(want.nodes))
			require.Equal(t, want.Owner(slot), rank[0])
		}
	})
}

func TestDeriveMovesOnlyTheChanged(t *testing.T) {
	a, err := Derive(16384, equal(20))
	require.NoError(t, err)
	b, err := a.With(equal(21))
	require.NoError(t, err)
	moved := 0
	for slot := range 16384 {
		if a.OwnerID(slot) != b.OwnerID(slot) {
			moved++
			require.Equal(t, "node-20", b.OwnerID(slot))
		}
	}
	require.InDelta(t, 16384/21, moved, 100)
}

func TestDeriveFollowsWeights(t *testing.T) {
	tab, err := Derive(1<<20, []Node{{"a", 1}, {"b", 2}, {"c", 7}, {"gone", 0}})
	require.NoError(t, err)
	for i, want := range []float64{.1, .2, .7} {
		require.InDelta(t, want, float64(tab.Counts()[i])/(1<<20), 0.002)
	}
}

// Stored maps and peers of other versions depend on these values: a change needs a new HashVersion.
func TestGolden(t *testing.T) {
	require.Equal(t, uint64(0xef46db3751d8e999), HashString(""))
	require.Equal(t, uint64(0x5692161d100b05e5), HashUint64(1))
	require.Equal(t, 16383, SlotOf(math.MaxUint64, 16384))
	tab, err := Derive(16, []Node{{"a", 1}, {"b", 2.5}, {"c", 1}})
	require.NoError(t, err)
	got := ""
	for s := range 16 {
		got += tab.OwnerID(s)
	}
	require.Equal(t, golden, got)
}

func TestNegLog2(t *testing.T) {
	for range 100_000 {
		h := rand.Uint64() >> rand.IntN(64)
		want := 64 - math.Log2(float64(h)+1)
		require.InDelta(t, want, float64(negLog2(h))/(1<<40), 1e-7)
	}
	require.Zero(t, negLog2(math.MaxUint64))
	require.Equal(t, uint64(64<<40), negLog2(0))
}

func TestInvalid(t *testing.T) {
	for name, f := range map[string]func() error{
		"twice":   func() error { _, err := Derive(16, []Node{{"a", 1}, {"a", 1}}); return err },
		"empty":   func() error { _, err := Derive(16, []Node{{"", 1}}); return err },
		"0 slots": func() error { _, err := Derive(0, equal(1)); return err },
		"weight":  func() error { _, _, err := Rebalance(nil, 16, []Node{{"a", math.NaN()}}); return err },
		"no node": func() error { _, _, err := Rebalance(nil, 16, []Node{{"a", 0}}); return err },
		"node 3":  func() error { _, err := FromOwners(equal(2), []int{0, 3}); return err },
		"has 16": func() error {
			a, _ := Derive(16, equal(2))
			_, _, err := Rebalance(a, 32, equal(2))
			return err
		},
		"slots, want": func() error { _, err := Derive(MaxSlots+1, nil); return err },
	} {
		err := f()
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	empty, err := Derive(8, nil)
	require.NoError(t, err)
	require.Equal(t, -1, empty.OfString("x"))
}

func BenchmarkLookup(b *testing.B) {
	t, _, _ := Rebalance(nil, 16384, equal(100))
	keys := make([]string, 1<<16)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%d", i)
	}
	b.Run("string", func(b *testing.B) {
		i := 0
		for b.Loop() {
			t.OfString(keys[i&(1<<16-1)])
			i++
		}
	})
	b.Run("uint64", func(b *testing.B) {
		i := uint64(0)
		for b.Loop() {
			t.OfUint64(i)
			i++
		}
	})
}

func BenchmarkChange(b *testing.B) {
	t, _, _ := Rebalance(nil, 16384, equal(1000))
	d, _ := Derive(16384, equal(100))
	b.Run("rebalance-1000", func(b *testing.B) {
		for b.Loop() {
			Rebalance(t, 16384, equal(1001))
		}
	})
	b.Run("derive-100", func(b *testing.B) {
		for b.Loop() {
			Derive(16384, equal(100))
		}
	})
	b.Run("with-100", func(b *testing.B) {
		for b.Loop() {
			d.With(equal(101))
		}
	})
}

const golden = "bbcbbcbcbbabcbac"
