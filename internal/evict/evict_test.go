package evict

import (
	"hash/maphash"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type entry struct {
	state  State
	key    int
	weight int64
}

var seed = maphash.MakeSeed()

func (e *entry) EvictState() *State  { return &e.state }
func (e *entry) Fingerprint() uint32 { return uint32(maphash.Comparable(seed, e.key) >> 32) }
func (e *entry) Weight() int64       { return e.weight }

var kinds = []Kind{S3TK, LRU, LFU, FIFO}

// bounded is the smallest cache that a policy can serve.
type bounded struct {
	policy Policy[*entry]
	kind   Kind
	max    int64
	index  map[int]*entry
}

func newBounded(k Kind, max int64) *bounded {
	return &bounded{policy: New[*entry](k, max), kind: k, max: max, index: map[int]*entry{}}
}

func (b *bounded) access(key int, weight int64) (hit bool) {
	if e, ok := b.index[key]; ok {
		if b.kind.TouchNeedsLock() {
			b.policy.Touch(e)
		} else {
			e.state.Visit()
		}
		return true
	}
	e := &entry{key: key, weight: weight}
	b.index[key] = e
	b.policy.Add(e)
	for b.policy.Weight() > b.max {
		v, ok := b.policy.Evict()
		if !ok {
			panic("over the limit and nothing to evict")
		}
		delete(b.index, v.key)
	}
	return false
}

// The policy holds exactly the nodes that were added and neither removed nor evicted, and their exact weight.
func TestHoldsWhatWasAdded(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				b := newBounded(k, rapid.Int64Range(1, 200).Draw(t, "capacity"))
				for range rapid.IntRange(1, 500).Draw(t, "steps") {
					key := rapid.IntRange(0, 60).Draw(t, "key")
					switch rapid.IntRange(0, 9).Draw(t, "op") {
					case 0:
						if e, ok := b.index[key]; ok {
							b.policy.Remove(e)
							delete(b.index, key)
						}
					case 1:
						if e, ok := b.index[key]; ok {
							n := &entry{key: key, weight: e.weight} // same weight: the limit is not this op's business
							b.policy.Replace(e, n)
							b.index[key] = n
						}
					default:
						b.access(key, min(b.max, rapid.Int64Range(1, 20).Draw(t, "weight")))
					}
					sum := int64(0)
					for _, e := range b.index {
						sum += e.weight
					}
					require.Equal(t, len(b.index), b.policy.Len())
					require.Equal(t, sum, b.policy.Weight())
					require.LessOrEqual(t, sum, b.max)
				}
				for range len(b.index) {
					v, ok := b.policy.Evict()
					require.True(t, ok)
					require.Same(t, b.index[v.key], v)
					delete(b.index, v.key)
				}
				_, ok := b.policy.Evict()
				require.False(t, ok)
				require.Empty(t, b.index)
			})
		})
	}
}

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		want []int
	}{
		{FIFO, []int{0, 1, 2, 3}},
		{LRU, []int{1, 3, 0, 2}},
		{LFU, []int{1, 3, 2, 0}},
	} {
		p := New[*entry](c.kind, 4)
		var es []*entry
		for i := range 4 {
			es = append(es, &entry{key: i, weight: 1})
			p.Add(es[i])
		}
		for _, i := range []int{0, 0, 0, 2} {
			p.Touch(es[i])
		}
		var got []int
		for n, ok := p.Evict(); ok; n, ok = p.Evict() {
			got = append(got, n.key)
		}
		require.Equal(t, c.want, got, c.kind)
	}
}

// An LFU without aging would keep yesterday's favorites for ever.
func TestLFUForgetsOldFavourites(t *testing.T) {
	b := newBounded(LFU, 10)
	for range 100 {
		for k := range 10 {
			b.access(k, 1)
		}
	}
	hits := 0
	for range 400 {
		for k := 100; k < 110; k++ {
			if b.access(k, 1) {
				hits++
			}
		}
	}
	require.Greater(t, hits, 2000)
}

// A working set that was read repeatedly survives a scan ten times its size.
func TestScanResistance(t *testing.T) {
	ratio := map[Kind]float64{}
	for _, k := range []Kind{S3TK, LRU} {
		b := newBounded(k, 1000)
		hits, n := 0, 0
		scan := 1_000_000
		for range 50 {
			for range 4 {
				for key := range 800 {
					if b.access(key, 1) {
						hits++
					}
					n++
				}
			}
			for range 5000 {
				b.access(scan, 1)
				scan++
			}
		}
		ratio[k] = float64(hits) / float64(n)
	}
	require.Greater(t, ratio[S3TK], 0.95)
	require.Greater(t, ratio[S3TK], ratio[LRU]+0.1)
}

func TestGhostRemembersACapacityOfEvictions(t *testing.T) {
	var g ghost
	fps := make([]uint32, 20_000)
	for i := range fps {
		fps[i] = rand.Uint32()
		g.add(fps[i], ofWindow, 10_000)
	}
	recent, old, near := 0, 0, 0
	for i, fp := range fps[15_000:] {
		from, n := g.take(fp)
		if from == ofWindow {
			recent++
		}
		if n {
			near++
			require.Greater(t, i, 4_450, "near is a twentieth of the capacity")
		}
	}
	for _, fp := range fps[:9_000] {
		if from, _ := g.take(fp); from != unknown {
			old++
		}
	}
	require.Greater(t, recent, 4_500, "the newer half is remembered")
	require.Greater(t, near, 450)
	require.Less(t, old, 50, "older than one capacity is forgotten")
}

// What left main is remembered while it is near, and takes no room from the others then.
func TestGhostOfMain(t *testing.T) {
	var g ghost
	main, window := make([]uint32, 1000), make([]uint32, 10_000)
	for i := range window {
		window[i] = rand.Uint32()
		g.add(window[i], ofWindow, 16_000)
		if i%10 == 0 {
			main[i/10] = rand.Uint32()
			g.add(main[i/10], ofMain, 16_000)
		}
	}
	found := 0
	for _, fp := range main {
		if from, near := g.take(fp); from == ofMain && near {
			found++
		}
	}
	require.InDelta(t, 800, found, 100, "of the last 800")
	found = 0
	for _, fp := range window {
		if from, _ := g.take(fp); from == ofWindow {
			found++
		}
	}
	require.Greater(t, found, 9_000)
}

// The window grows for traffic that comes back soon and never again, and shrinks for a loop that does not fit.
func TestWindowFollowsTheTraffic(t *testing.T) {
	const capacity = 1000
	share := func(p *s3tk[*entry]) float64 { return float64(p.target) / capacity }

	b := newBounded(S3TK, capacity)
	for i := range 200_000 {
		b.access(i, 1)
		b.access(i-rand.IntN(500), 1) // some once more, soon
	}
	require.Greater(t, share(b.policy.(*s3tk[*entry])), 0.1)

	b = newBounded(S3TK, capacity)
	for i := range 200_000 {
		b.access(i%1300, 1)
	}
	require.Less(t, share(b.policy.(*s3tk[*entry])), 0.06)

	p := newS3TK[*entry](1000)
	require.EqualValues(t, 50, p.target)
	p.target = 800
	p.SetCapacity(500)
	require.EqualValues(t, 400, p.target, "the share stays")
	p.SetCapacity(1)
	require.EqualValues(t, 1, p.target)
}

func TestVisitSaturatesAndKeepsThePosition(t *testing.T) {
	e := &entry{weight: 1}
	p := newS3TK[*entry](100)
	p.Add(e)
	pos := e.state.pos()
	done := make(chan bool)
	for range 4 {
		go func() {
			for range 10_000 {
				e.state.Visit()
			}
			done <- true
		}()
	}
	for range 4 {
		<-done
	}
	require.EqualValues(t, 3, e.state.visits())
	require.Equal(t, pos, e.state.pos())
	require.False(t, e.state.main())
	require.Zero(t, testing.AllocsPerRun(100, e.state.Visit))
}

func BenchmarkMiss(b *testing.B) {
	for _, k := range kinds {
		b.Run(k.String(), func(b *testing.B) {
			p := New[*entry](k, 100_000)
			es := make([]entry, 200_000)
			for i := range es {
				es[i].key, es[i].weight = i, 1
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				p.Add(&es[i%len(es)])
				i++
				for p.Weight() > 100_000 {
					p.Evict()
				}
			}
		})
	}
}
