package lb

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/internal/lottery"
	"github.com/tierkit/tierkit/internal/usercode"
)

// Prequal asks backends for their load and takes the best of those that answered lately (Wydrowski et al., "Load is not
// what you should balance: Introducing Prequal", NSDI 2024). What a backend says of itself counts the requests of all
// balancers, where the other policies know only their own. Probes are sent beside requests, never waited for: each
// request has Rate of them sent to random backends, for those that come later. Of the answers at hand those with more
// requests in flight than is usual are hot; the cold one with the least latency is taken, or, when all are hot, the one
// with the fewest in flight. A backend whose last answer was a failure, less than a second ago, is left out. While
// there are no answers at hand, two choices decide.
//
// It pays with slow and noisy backends and many balancers; it costs the backends Rate cheap requests for each request.
// Backends report by [LoadMeter]. A Policy of it may be used by several balancers; each probes for itself.
func Prequal(o PrequalOptions) Policy { return prequal{o: o} }

// PrequalOptions say how load is probed. The zero value asks for "/load" by HTTP.
type PrequalOptions struct {
	Path string // where backends serve a LoadMeter; empty: "/load"
	// asks instead of HTTP; must honor ctx. nil: by HTTP, as the endpoint's scheme says
	Probe func(ctx context.Context, t Target) (inFlight int, latency time.Duration, err error)
	Rate  float64 // probes per request; 0: 3
	Pool  int     // answers that are kept; 0: 16
	// an older answer is not used, a probe not waited for longer; 0: 1 s
	MaxAge time.Duration
	// a backend is hot above this quantile of the requests in flight that were reported; 0: 0.84
	Hot float64
}

func (o PrequalOptions) check() error {
	if o.Rate < 0 || math.IsNaN(o.Rate) || o.Rate > 100 || o.Pool < 0 || o.Pool > 1024 || o.MaxAge < 0 ||
		!(o.Hot >= 0 && o.Hot <= 1) {
		return fmt.Errorf("lb: Prequal: Rate %v, Pool %d, MaxAge %v, Hot %v out of range", o.Rate, o.Pool, o.MaxAge,
			o.Hot)
	}
	return nil
}

type prequal struct {
	o   PrequalOptions
	src lottery.Source
}

// WithSource returns the policy with another source of random numbers, for simulations.
func (p prequal) WithSource(src lottery.Source) Policy { return prequal{p.o, src} }

// Picker without a balancer has nobody to probe with.
func (p prequal) Picker(bs []*Backend) Picker { return powerOfTwo{p.src}.Picker(bs) }

// prober keeps one balancer's answers.
type prober struct {
	b    *Balancer
	o    PrequalOptions
	src  lottery.Source
	http *transports // its own, when it asks by HTTP

	due  atomic.Int64 // thousandths of a probe
	wake chan struct{}

	answered, failed atomic.Uint64

	mu      sync.Mutex // guards what follows; a pick tries it and never waits
	asking  lottery.Source
	bs      []*Backend                 // to be asked
	member  map[*Backend]time.Duration // since when it may be picked
	mean    float64                    // weight
	pool    []answer
	uses    int // of one answer
	oldest  bool
	seen    [128]float64 // in flight as reported lately, per weight
	reports int
	hot     float64 // threshold
}

// answer of a backend, until it is too old or was used often enough.
type answer struct {
	b        *Backend
	inFlight float64 // per weight; grows with each use
	latency  time.Duration
	at       time.Duration
	uses     int
}

const probesAtOnce = 64

func newProber(b *Balancer, p prequal) *prober {
	o := p.o
	if o.Path == "" {
		o.Path = "/load"
	}
	if !strings.HasPrefix(o.Path, "/") {
		o.Path = "/" + o.Path
	}
	if o.Rate == 0 {
		o.Rate = 3
	}
	if o.Pool == 0 {
		o.Pool = 16
	}
	if o.MaxAge == 0 {
		o.MaxAge = time.Second
	}
	if o.Hot == 0 {
		o.Hot = 0.84 // the paper's 2^-0.25
	}
	r := &prober{b: b, o: o, src: p.src, asking: p.src.Split(), wake: make(chan struct{}, 1),
		pool: make([]answer, 0, o.Pool)}
	if o.Probe == nil {
		r.http = newTransports(&b.o)
		r.o.Probe = r.get
	}
	return r
}

// adopt is told which backends may be picked, and keeps what they answered.
func (r *prober) adopt(bs []*Backend) Picker {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, member := time.Since(began), make(map[*Backend]time.Duration, len(bs))
	r.bs, r.mean = bs, 0
	for _, b := range bs {
		since, stays := r.member[b]
		if !stays {
			since = now
		}
		member[b] = since
		r.mean += b.Weight()
	}
	r.mean /= float64(len(bs))
	r.member = member
	r.pool = slices.DeleteFunc(r.pool, func(a answer) bool { _, stays := member[a.b]; return !stays })
	// How often an answer is used, by the paper's formula: so that the pool stays full while one answer is taken out
	// for each request.
	r.uses = 8
	if gain := (1-float64(min(r.o.Pool, len(bs)))/float64(len(bs)))*r.o.Rate - 1; gain > 0 {
		r.uses = min(max(int(math.Round(2/gain)), 1), 8)
	}
	return probed{r, powerOfTwo{r.src}.Picker(bs)}
}

type probed struct {
	*prober
	local Picker
}

func (p probed) Pick(k Key) *Backend {
	if p.due.Add(int64(p.o.Rate*1000)) >= 1000 {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	if p.mu.TryLock() {
		b := p.choose(time.Since(began))
		p.mu.Unlock()
		if b != nil {
			return b
		}
	}
	return p.local.Pick(k)
}

// choose takes the best answer. mu is held.
func (r *prober) choose(now time.Duration) *Backend {
	kept := r.pool[:0]
	for _, a := range r.pool {
		if now-a.at <= r.o.MaxAge && a.uses < r.uses {
			kept = append(kept, a)
		}
	}
	r.pool = kept
	best := -1
	for i := range r.pool {
		if !r.pool[i].b.Failing() && (best < 0 || r.better(&r.pool[i], &r.pool[best])) {
			best = i
		}
	}
	if best < 0 || len(r.pool) < 2 {
		return nil // one answer is no choice
	}
	a := &r.pool[best]
	b := a.b
	a.uses++
	more := r.mean / b.Weight() // this request, which the answer does not know of
	a.latency += time.Duration(float64(a.latency) * more / (a.inFlight + 1))
	a.inFlight += more
	// One is taken out for each request, by turns the oldest and the worst: else the pool would come to hold what
	// nobody wants to use.
	if len(r.pool) > 2 {
		out := 0
		for i := range r.pool {
			if r.oldest && r.pool[i].at < r.pool[out].at || !r.oldest && r.better(&r.pool[out], &r.pool[i]) {
				out = i
			}
		}
		r.oldest = !r.oldest
		r.pool = slices.Delete(r.pool, out, out+1)
	}
	return b
}

// better is the hot-cold lexicographic rule: any cold one before any hot one, of cold ones the fast, of hot ones the
// one with fewer requests.
func (r *prober) better(x, y *answer) bool {
	if hx, hy := x.inFlight > r.hot, y.inFlight > r.hot; hx != hy {
		return hy
	} else if hx {
		return x.inFlight < y.inFlight
	}
	return x.latency < y.latency
}

// run sends the probes that are due, until the balancer is closed. It does not wait for those under way. A probe that
// ignores its context keeps its slot, so that no more than probesAtOnce run.
func (r *prober) run() {
	ctx := r.b.ctx
	slots := make(chan struct{}, probesAtOnce)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		n := r.due.Swap(0)
		r.due.Add(n % 1000)
	sending:
		for range n / 1000 {
			select {
			case slots <- struct{}{}:
			default:
				break sending // backends that do not answer are not asked more
			}
			b := r.next()
			if b == nil {
				<-slots
				break
			}
			go func() {
				<-r.ask(ctx, b)
				<-slots
			}()
		}
	}
}

func (r *prober) next() *Backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bs) == 0 {
		return nil
	}
	return r.bs[r.asking.Below(len(r.bs))]
}

// ask probes one backend and takes its answer. The channel is closed when the probe has returned, which may be later.
func (r *prober) ask(ctx context.Context, b *Backend) (returned <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, r.o.MaxAge)
	defer cancel()
	asked := time.Since(began)
	answers := make(chan answer, 1)
	returned, err := usercode.Within(ctx, func(ctx context.Context) error {
		inFlight, latency, err := r.o.Probe(ctx, Target{Endpoint: b.Endpoint(), Dial: r.b.o.Dial, TLS: r.b.o.TLS})
		if err == nil && (inFlight < 0 || latency < 0) {
			err = fmt.Errorf("lb: load of %s: negative", b.id)
		}
		answers <- answer{b: b, inFlight: float64(inFlight), latency: latency, at: asked}
		return err
	})
	if err != nil {
		r.failed.Add(1)
		r.drop(b, asked)
		return returned
	}
	r.answered.Add(1)
	r.take(<-answers)
	return returned
}

// drop forgets what a backend answered that does not answer any more, unless it has answered a later question.
func (r *prober) drop(b *Backend, asked time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pool = slices.DeleteFunc(r.pool, func(a answer) bool { return a.b == b && a.at <= asked })
}

// take puts an answer into the pool, in the place of the same backend's or, when it is full, of the oldest. Its age
// counts from when it was asked for: answers overtake each other, and what was asked before the backend came (back)
// into the pool tells how it was before.
func (r *prober) take(a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if since, member := r.member[a.b]; !member || a.at < since {
		return
	}
	a.inFlight *= r.mean / a.b.Weight()
	r.seen[r.reports%len(r.seen)] = a.inFlight
	if r.reports++; r.reports%16 == 0 || r.reports < 16 {
		lately := r.seen
		sorted := lately[:min(r.reports, len(r.seen))]
		slices.Sort(sorted)
		r.hot = sorted[int(r.o.Hot*float64(len(sorted)-1))]
	}
	at := slices.IndexFunc(r.pool, func(x answer) bool { return x.b == a.b })
	switch {
	case at >= 0:
		if r.pool[at].at > a.at {
			return
		}
	case len(r.pool) < r.o.Pool:
		r.pool = append(r.pool, a)
		return
	default:
		at = 0
		for i := range r.pool {
			if r.pool[i].at < r.pool[at].at {
				at = i
			}
		}
	}
	r.pool[at] = a
}

// get asks by HTTP over connections that are kept.
func (r *prober) get(ctx context.Context, t Target) (inFlight int, latency time.Duration, err error) {
	scheme, rt := t.Scheme, r.http.secure // which speaks HTTP/1.1 without TLS too
	if scheme == "h2c" {
		scheme, rt = "http", r.http.clear2
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+t.Addr+r.o.Path, nil)
	if err != nil {
		return 0, 0, err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("lb: load of %s: status %d", t.ID, res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return 0, 0, err
	}
	var l struct { // as a limit.LoadMeter writes it
		InFlight int           `json:"in_flight"`
		Latency  time.Duration `json:"latency_ns"`
	}
	if err := json.Unmarshal(body, &l); err != nil {
		return 0, 0, fmt.Errorf("lb: load of %s: %w", t.ID, err)
	}
	return l.InFlight, l.Latency, nil
}

func (r *prober) close() {
	if r.http != nil {
		r.http.close()
	}
}
