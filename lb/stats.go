package lb

import "time"

// Stats of a [Balancer].
type Stats struct {
	Requests  uint64 `metric:"requests_total,counter,Requests that were given to a backend or refused"`
	Retries   uint64 `metric:"retries_total,counter,Attempts after the first"`
	NoRetry   uint64 `metric:"retry_budget_exhausted_total,counter,Retries that the budget refused"`
	Hedges    uint64 `metric:"hedges_total,counter,Second attempts beside one that was slow"`
	HedgesWon uint64 `metric:"hedges_won_total,counter,Second attempts that answered first"`
	Refused   uint64 `metric:"refused_total,counter,Requests that got no backend"`
	Shed      uint64 `metric:"shed_total,counter,Of these because of an adaptive limit"`
	Queued    int    `metric:"queued,gauge,Requests waiting for a backend"`
	InFlight  int    `metric:"in_flight,gauge,Requests on backends"`
	Available int    `metric:"backends_available,gauge,Backends that may be picked"`
	Panic     bool   `metric:"panic,gauge,1 while health is ignored"`
	Ejections uint64 `metric:"ejections_total,counter,Passive ejections"`
	Backends  []BackendStats

	LoadProbes        uint64 `metric:"load_probes_total,counter,Load probes answered"`
	LoadProbeFailures uint64 `metric:"load_probe_failures_total,counter,Load probes that failed"`

	// requests that got no answer from a backend, and the last of them
	Failures      uint64 `metric:"failures_total,counter,Requests without an answer"`
	LastError     string
	LastErrorTime time.Time
	// functions of the user that panicked, and the last of them
	CallbackFailures      uint64 `metric:"callback_failures_total,counter,Callbacks that panicked or were dropped"`
	LastCallbackError     string
	LastCallbackErrorTime time.Time

	Limit       int           `metric:"limit,gauge,Adaptive limit"`
	Limited     int           `metric:"limited,gauge,Requests that count towards it"`
	BaseLatency time.Duration `metric:"base_latency_seconds,gauge,90th percentile without load"`
}

// BackendStats are the series of one backend.
type BackendStats struct {
	ID             string        `label:"backend" json:"id"`
	Addr           string        `json:"addr"`
	State          string        `json:"state"`
	Weight         float64       `metric:"backend_weight,gauge,Weight now" json:"weight"`
	Up             bool          `metric:"backend_up,gauge,1 when it may be picked" json:"up"`
	InFlight       int           `metric:"backend_in_flight,gauge,Requests on it" json:"in_flight"`
	Requests       uint64        `metric:"backend_requests_total,counter,Attempts" json:"requests"`
	Failures       uint64        `metric:"backend_failures_total,counter,Failed attempts" json:"failures"`
	Latency        time.Duration `metric:"backend_latency_seconds,gauge,Peak-sensitive mean latency" json:"latency_ns"`
	Limit          int           `metric:"backend_limit,gauge,Adaptive limit of its own" json:"limit"`
	CheckFailures  uint64        `metric:"backend_check_failures_total,counter,Active checks that failed" json:"check_failures"`
	LastCheckError string        `json:"last_check_error,omitempty"`
	LastCheckTime  time.Time     `json:"last_check_time,omitzero"`
	Idle           int           `metric:"backend_idle_connections,gauge,Idle connections kept" json:"idle"`
	Dials          uint64        `metric:"backend_dials_total,counter,Connections opened" json:"dials"`
}

// Stats returns counters and gauges, overall and per backend in the order of their IDs.
func (b *Balancer) Stats() Stats {
	s := b.snap.Load()
	out := Stats{
		Requests: b.requests.Load(), Retries: b.retries.Load(), NoRetry: b.noRetry.Load(), Refused: b.refused.Load(),
		Hedges: b.hedges.Load(), HedgesWon: b.hedgesWon.Load(),
		Queued: int(b.queue.size.Load()), Available: len(s.usable), Panic: s.panic, Ejections: b.ejected.Load(),
		Backends: make([]BackendStats, 0, len(s.all)),
	}
	if p := b.prober; p != nil {
		out.LoadProbes, out.LoadProbeFailures = p.answered.Load(), p.failed.Load()
	}
	out.Shed = b.shed.Load()
	if l := b.limiter; l != nil {
		out.Shed, out.Limit, out.Limited, out.BaseLatency = l.shed.Load(), int(l.limit.Load()), int(l.inFlight.Load()),
			time.Duration(l.baseNow.Load())
		out.Queued += int(l.queue.size.Load())
	}
	out.Failures, out.LastError, out.LastErrorTime = b.failures.Load()
	out.CallbackFailures, out.LastCallbackError, out.LastCallbackErrorTime = b.callbacks.Load()
	for _, be := range s.all {
		idle, dials := be.pool.Stats()
		st := be.State()
		limit := 0
		if be.limiter != nil {
			limit = int(be.limiter.limit.Load())
			out.Limit, out.Limited = out.Limit+limit, out.Limited+be.InFlight()
			out.BaseLatency = max(out.BaseLatency, time.Duration(be.limiter.baseNow.Load()))
		}
		out.Backends = append(out.Backends, BackendStats{
			ID: be.id, Addr: be.ep.Load().Addr, State: st.String(), Weight: be.Weight(), Up: st == StateUp,
			InFlight: be.InFlight(),
			Requests: be.requests.Load(), Failures: be.failures.Load(), Latency: be.Latency(), Idle: idle, Dials: dials,
			Limit: limit,
		})
		last := &out.Backends[len(out.Backends)-1]
		last.CheckFailures, last.LastCheckError, last.LastCheckTime = be.checks.Load()
		out.InFlight += last.InFlight
	}
	return out
}

// Backends returns all backends of the pool in the order of their IDs.
func (b *Balancer) Backends() []*Backend {
	return append([]*Backend(nil), b.snap.Load().all...)
}
