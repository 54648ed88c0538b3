package lb

import (
	"context"
	"net/http"
	"time"
)

// hedges reports whether a second attempt at r may be made beside the first.
func (t *tripper) hedges(r *http.Request, idempotent bool) bool {
	h := &t.b.o.Hedge
	return h.on() && idempotent && len(r.Header["Upgrade"]) == 0 && h.wants(r)
}

// race makes an attempt, and after delay a second one beside it. It returns the first proper answer, or the last
// failure; failed lists the backend of the other attempt when that failed too, its lease ended. The attempt that lost
// is cancelled and put away on a goroutine that ends with it.
func (t *tripper) race(r *request, lease Pick, avoid tried, delay time.Duration) (got trip, failed []*Backend) {
	results := make(chan trip, 2)
	var stops [2]context.CancelFunc
	running, started := 0, 0
	start := func(l Pick) {
		ctx, cancel := context.WithCancel(r.Context())
		stops[started] = cancel
		fresh := avoid.len() > 0 || started > 0
		running, started = running+1, started+1
		go func() {
			got := t.send(ctx, r.Request, l, fresh)
			got.cancel = cancel
			results <- got
		}()
	}
	start(lease)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if l, ok := t.b.second(r.key, avoid, lease.b); ok {
				start(l)
			}
		case got = <-results:
			running--
			good := got.err == nil && !(r.idempotent && t.b.retriesStatus(got.res.StatusCode))
			if !good && running > 0 { // the other may do better
				got.fail(r.Context())
				failed = append(failed, got.lease.b)
				continue
			}
			if good && got.lease.hedge {
				t.b.hedgesWon.Add(1)
			}
			if running > 0 {
				loser := 1
				if got.lease.hedge {
					loser = 0
				}
				stops[loser]()
				go func() {
					late := <-results
					if late.err == nil {
						late.res.Body.Close()
					}
					late.lease.Done(Result{outrun: true, Latency: late.latency})
				}()
			}
			return got, failed
		}
	}
}
