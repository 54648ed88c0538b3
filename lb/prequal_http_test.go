package lb_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/limit"
)

func TestPrequalAsksByHTTP(t *testing.T) {
	t.Parallel()
	var meters [3]limit.LoadMeter
	var es []lb.Endpoint
	var broken atomic.Bool
	for i := range meters {
		mux := http.NewServeMux()
		mux.HandleFunc("/load", func(w http.ResponseWriter, r *http.Request) {
			if broken.Load() {
				http.Error(w, "no", http.StatusInternalServerError)
				return
			}
			meters[i].ServeHTTP(w, r)
		})
		mux.Handle("/", meters[i].Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, i)
		})))
		e, _ := lbtest.Serve(t, fmt.Sprint("s", i), mux.ServeHTTP)
		es = append(es, e)
	}
	for range 20 { // another balancer's requests, which hang on two of the three
		meters[0].Begin()
		meters[1].Begin()
	}
	b := lbtest.New(t, es, lb.Options{Policy: lb.Prequal(lb.PrequalOptions{MaxAge: 20 * time.Second})})
	h, err := b.Handler(lb.ProxyOptions{})
	require.NoError(t, err)
	get := func() string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "http://site.example/", nil))
		return w.Body.String()
	}
	require.Eventually(t, func() bool {
		get()
		answers, reports := b.Answers()
		return answers >= 2 && reports > 20
	}, lbtest.WaitFor, lbtest.Pause, "answers come in")
	idle := 0
	require.Eventually(t, func() bool {
		if get() == "2" {
			idle++
		} else {
			idle = 0
		}
		return idle == 5
	}, lbtest.WaitFor, lbtest.Pause, "the idle one is found, though this balancer has nothing on any")
	st := b.Stats()
	require.NotZero(t, st.LoadProbes)
	broken.Store(true)
	require.Eventually(t, func() bool {
		get()
		return b.Stats().LoadProbeFailures > 5
	}, lbtest.WaitFor, lbtest.Pause, "refusals are counted")
	require.Eventually(t, func() bool {
		get()
		answers, _ := b.Answers()
		return answers == 0
	}, lbtest.WaitFor, lbtest.Pause, "who does not say is forgotten")
	require.NotEmpty(t, get(), "and requests are served")
}
