package queue_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tierkit/tierkit/queue"
)

// modelMessage is what a queue should know of a message.
type modelMessage struct {
	key       string
	state     string // waiting, leased, delayed, dead
	attempts  int
	published int
}

// TestModel plays random operations, crashes included, on the queue and on a simple model of it.
func TestModel(t *testing.T) {
	root := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		dir := filepath.Join(root, fmt.Sprint(runs))
		defer os.RemoveAll(dir)
		o := queue.Options{SegmentBytes: small, UnsafeNoSync: true} // the disk is not what is tested
		q, err := queue.Open(dir, o)
		require.NoError(rt, err)
		defer func() { q.Close() }()
		const max = 3
		reopen := func() *queue.Group {
			g, err := q.Group(t.Context(), "t", "g", queue.GroupOptions{MaxDeliveries: max, Lease: time.Hour})
			require.NoError(rt, err)
			return g
		}
		g := reopen()
		model := map[string]*modelMessage{}
		ids := map[string]bool{}
		var held []*queue.Delivery
		n := 0
		// ready are the messages that may be delivered now: of each key only the oldest that is not dead.
		ready := func() map[string]bool {
			heads := map[string]*modelMessage{}
			for _, m := range model {
				if m.key != "" && m.state != "dead" && (heads[m.key] == nil || m.published < heads[m.key].published) {
					heads[m.key] = m
				}
			}
			for _, m := range model { // one in flight keeps its place, also before an older one that came back
				if m.key != "" && m.state == "leased" {
					heads[m.key] = m
				}
			}
			r := map[string]bool{}
			for id, m := range model {
				if m.state == "waiting" && (m.key == "" || heads[m.key] == m) {
					r[id] = true
				}
			}
			return r
		}
		take := func(i int) *queue.Delivery {
			d := held[i]
			held = append(held[:i], held[i+1:]...)
			return d
		}
		give := func(m *modelMessage, to string) {
			if m.attempts >= max {
				to = "dead"
			}
			m.state = to
		}
		rt.Repeat(map[string]func(*rapid.T){
			"publish": func(rt *rapid.T) {
				var msgs []queue.Message
				for range rapid.IntRange(1, 3).Draw(rt, "count") {
					id := fmt.Sprint("m", rapid.IntRange(0, 40).Draw(rt, "id"))
					m := queue.Message{Topic: "t", ID: id,
						Key:      rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(rt, "key"),
						Priority: uint8(rapid.IntRange(0, 2).Draw(rt, "priority")), Body: []byte(id)}
					msgs = append(msgs, m)
				}
				rs, err := q.PublishBatch(t.Context(), msgs)
				require.NoError(rt, err)
				for i, m := range msgs {
					require.Equal(rt, ids[m.ID], rs[i].Duplicate, m.ID)
					if !ids[m.ID] {
						ids[m.ID] = true
						model[m.ID] = &modelMessage{key: m.Key, state: "waiting", published: n}
						n++
					}
				}
			},
			"fetch": func(rt *rapid.T) {
				r := ready()
				if len(r) == 0 {
					return
				}
				ds, err := g.Fetch(t.Context(), rapid.IntRange(1, 4).Draw(rt, "max"))
				require.NoError(rt, err)
				for _, d := range ds {
					require.True(rt, r[d.ID], "%s is not to be delivered", d.ID)
					delete(r, d.ID)
					m := model[d.ID]
					m.attempts++
					m.state = "leased"
					require.Equal(rt, m.attempts, d.Attempt, d.ID)
					require.Equal(rt, d.ID, string(d.Body))
				}
				held = append(held, ds...)
			},
			"settle": func(rt *rapid.T) {
				if len(held) == 0 {
					return
				}
				d := take(rapid.IntRange(0, len(held)-1).Draw(rt, "which"))
				m := model[d.ID]
				switch rapid.IntRange(0, 4).Draw(rt, "verdict") {
				case 0, 1:
					require.NoError(rt, d.Ack(t.Context()))
					delete(model, d.ID)
				case 2:
					require.NoError(rt, d.Nack(t.Context(), 0))
					give(m, "waiting")
				case 3:
					require.NoError(rt, d.Term(t.Context(), "x"))
					m.state = "dead"
				case 4:
					require.NoError(rt, d.Release(t.Context()))
					m.attempts--
					m.state = "waiting"
				}
				require.ErrorIs(rt, d.Ack(t.Context()), queue.ErrLeaseLost)
			},
			"delay": func(rt *rapid.T) {
				if len(held) == 0 {
					return
				}
				d := take(0)
				require.NoError(rt, d.Nack(t.Context(), time.Hour))
				give(model[d.ID], "delayed")
			},
			"redrive": func(rt *rapid.T) {
				k, err := g.Redrive(t.Context(), 100)
				require.NoError(rt, err)
				for _, m := range model {
					if m.state == "dead" {
						m.state, m.attempts = "waiting", 0
						k--
					}
				}
				require.Zero(rt, k)
			},
			"crash": func(rt *rapid.T) {
				require.NoError(rt, q.Close())
				q, err = queue.Open(dir, o)
				require.NoError(rt, err)
				g = reopen()
				held = nil
				for _, m := range model {
					if m.state == "leased" {
						m.state = "waiting"
					}
				}
			},
			"": func(rt *rapid.T) {
				l, err := g.Lag(t.Context())
				require.NoError(rt, err)
				count := map[string]int{}
				for _, m := range model {
					count[m.state]++
				}
				require.Equal(rt, count["leased"], l.InFlight)
				require.Equal(rt, count["dead"], l.Dead)
				require.Equal(rt, len(ready()), l.Ready)
				require.Equal(rt, count["waiting"]+count["delayed"]-len(ready()), l.Delayed)
				s := q.Stats()
				require.GreaterOrEqual(rt, s.LiveBytes, int64(len(model)))
				if len(model) == 0 {
					require.Zero(rt, s.LiveBytes)
				}
			},
		})
	})
}
