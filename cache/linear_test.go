package cache_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
)

// operation on one key, for the model: a register that may be empty (0).
type operation struct {
	kind string // get, set, delete, load
	key  int
	arg  int
}

// register says which states may follow. A load answers with what is there, or with what its loader returned; that is
// stored if nothing is there, and not stored when a write came in between (which is why the answer alone changes
// nothing).
var register = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, o := range history {
			k := o.Input.(operation).key
			byKey[k] = append(byKey[k], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() []any { return []any{0} },
	Step: func(state, input, output any) []any {
		now, got := state.(int), output.(int)
		switch in := input.(operation); in.kind {
		case "set":
			return []any{in.arg}
		case "delete":
			return []any{0}
		case "load":
			switch now {
			case got:
				return []any{now}
			case 0:
				return []any{got, 0}
			default:
				return []any{now}
			}
		default:
			if now == got {
				return []any{now}
			}
			return nil
		}
	},
	Equal: func(a, b any) bool { return a == b },
}

func TestLinearizable(t *testing.T) {
	for _, p := range policies {
		for round := range 20 {
			c := newCache(t, cache.Options[int, int]{Policy: p, TTL: time.Hour})
			var mu sync.Mutex
			var history []porcupine.Operation
			var next atomic.Int64
			start := time.Now()
			var wg sync.WaitGroup
			for client := range 8 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(round), uint64(client)))
					for range 30 {
						in := operation{key: r.IntN(3)}
						out := 0
						call := int64(time.Since(start))
						switch n := r.IntN(10); {
						case n < 4:
							in.kind = "get"
							out, _ = c.Get(in.key)
						case n < 6:
							in.kind, in.arg = "set", int(next.Add(1))
							c.Set(in.key, in.arg)
						case n < 7:
							in.kind = "delete"
							c.Delete(in.key)
						default:
							in.kind = "load"
							out, _ = c.Load(context.Background(), in.key, func(context.Context, int) (int, error) {
								runtime.Gosched()
								return int(next.Add(1)), nil
							})
						}
						ret := int64(time.Since(start))
						mu.Lock()
						history = append(history,
							porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call, Return: ret})
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			model := register.ToModel()
			result, info := porcupine.CheckOperationsVerbose(model, history, 10*time.Second)
			if result == porcupine.Illegal {
				t.Fatalf("%v: history is not linearizable: %+v", p, info)
			}
			require.Equal(t, porcupine.Ok, result, "undecided")
		}
	}
}
