package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Job is a delivery with its body decoded. A handler may settle it itself (Ack, Nack, Term, Release); what it does not
// settle is settled by what the handler returns: nil acknowledges, an error retries with the group's backoff, [ErrDrop]
// gives up.
type Job[T any] struct {
	*Delivery
	Data T
}

// Mux chooses handlers by [Message.Kind]. Fill it before the pool starts; it is read-only afterwards.
type Mux struct {
	routes map[string]route
	around []func(HandlerFunc) HandlerFunc
}

// HandlerFunc handles deliveries of one kind; more than one only for kinds registered with HandleBatch.
type HandlerFunc func(ctx context.Context, ds []*Delivery) error

type route struct {
	handle HandlerFunc
	max    int
	wait   time.Duration
}

// NewMux returns a mux without handlers.
func NewMux() *Mux { return &Mux{routes: map[string]route{}} }

// Use wraps every handler of the mux, the first one outermost.
func (m *Mux) Use(middleware ...func(HandlerFunc) HandlerFunc) {
	m.around = append(m.around, middleware...)
}

// Handle registers a typed handler for a kind. Bodies are JSON. A body that does not decode becomes a dead letter at
// once. It panics when the kind has a handler already, as http.ServeMux does.
func Handle[T any](m *Mux, kind string, h func(ctx context.Context, job *Job[T]) error) {
	m.add(kind, route{max: 1, handle: func(ctx context.Context, ds []*Delivery) error {
		jobs := decode[T](ctx, ds)
		if len(jobs) == 0 {
			return nil
		}
		return h(ctx, jobs[0])
	}})
}

// BatchOptions say how many jobs a batch handler gets.
type BatchOptions struct {
	// Max jobs in one call. Default 100.
	Max int
	// Wait is how long the pool waits for more when fewer than Max are there, a third of the lease at most. Default 0:
	// it takes what is there.
	Wait time.Duration
}

// HandleBatch registers a handler that gets many jobs at once, for instance to apply all of them in one database
// transaction: nil acknowledges all of them together, after the call; an error retries all that the handler has not
// settled itself.
func HandleBatch[T any](m *Mux, kind string, o BatchOptions, h func(ctx context.Context, jobs []*Job[T]) error) {
	if o.Max <= 0 {
		o.Max = 100
	}
	m.add(kind, route{max: o.Max, wait: o.Wait, handle: func(ctx context.Context, ds []*Delivery) error {
		jobs := decode[T](ctx, ds)
		if len(jobs) == 0 {
			return nil
		}
		return h(ctx, jobs)
	}})
}

func (m *Mux) add(kind string, r route) {
	if _, ok := m.routes[kind]; ok {
		panic(fmt.Sprintf("queue: kind %q has a handler already", kind))
	}
	m.routes[kind] = r
}

// Send publishes data as JSON; m carries topic, kind and the rest.
func Send[T any](ctx context.Context, q *Queue, m Message, data T) (Receipt, error) {
	body, err := json.Marshal(data)
	if err != nil {
		return Receipt{}, fmt.Errorf("queue: encode %s: %w", m.Kind, err)
	}
	m.Body = body
	return q.Publish(ctx, m)
}

func decode[T any](ctx context.Context, ds []*Delivery) []*Job[T] {
	jobs := make([]*Job[T], 0, len(ds))
	for _, d := range ds {
		j := &Job[T]{Delivery: d}
		if raw, ok := any(&j.Data).(*[]byte); ok {
			*raw = d.Body
		} else if err := json.Unmarshal(d.Body, &j.Data); err != nil {
			_ = d.Term(ctx, "body does not decode: "+err.Error())
			continue
		}
		jobs = append(jobs, j)
	}
	return jobs
}
