package lb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// 10,000 POSTs to a backend that ends idle connections whenever it likes: none is processed twice, and each that was
// not answered is a 502. Connections and goroutines are back to where they were.
func TestNoPostIsSentTwice(t *testing.T) {
	for name, front := range ways {
		t.Run(name, func(t *testing.T) { noPostIsSentTwice(t, front) })
	}
}

func noPostIsSentTwice(t *testing.T, front func(testing.TB, *Balancer) (string, *http.Client)) {
	var mu sync.Mutex
	seen := map[string]int{}
	e := fakeBackend(t, func(n int, c net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			id, _ := io.ReadAll(r.Body)
			mu.Lock()
			seen[string(id)]++
			mu.Unlock()
			if _, err := io.WriteString(c, ok); err != nil {
				return
			}
			if rand.IntN(4) == 0 { // an end without a word, at once or a moment later
				if rand.IntN(2) == 0 {
					time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
				}
				return
			}
		}
	})
	b := newBalancer(t, []Endpoint{e}, Options{Outlier: Outlier{Disabled: true}})
	url, client := front(t, b)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 16
	goroutines, files := runtime.NumGoroutine(), openFiles()
	var answered, refused, next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > 10_000 {
					return
				}
				res, err := client.Post(url, "text/plain", strings.NewReader(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				switch res.StatusCode {
				case 200:
					answered.Add(1)
				case 502:
					refused.Add(1)
				default:
					t.Errorf("status %d", res.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	client.CloseIdleConnections()
	b.Backends()[0].pool.Close()
	mu.Lock()
	for id, n := range seen {
		if n != 1 {
			t.Errorf("POST %s was processed %d times", id, n)
		}
	}
	require.GreaterOrEqual(t, int64(len(seen)), answered.Load())
	mu.Unlock()
	require.EqualValues(t, 10_000, answered.Load()+refused.Load())
	require.Less(t, refused.Load(), int64(1000), "most stale connections are seen before they are used")
	for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > goroutines+5 || openFiles() > files+
		5; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines and %d files, at the start %d and %d", runtime.NumGoroutine(), openFiles(),
				goroutines, files)
		}
	}
}

func openFiles() int {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // not on Linux
	}
	return len(es)
}

// A day of backends that flap every few seconds: with MinHold the states change seldom, somebody can always be picked,
// and in the end all are up.
func TestADayOfFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes atomic.Int64
		start := time.Now()
		calm := func() bool { return time.Since(start) > 24*time.Hour }
		b, err := New(endpoints(5), Options{
			Health: HealthCheck{Interval: 10 * time.Second, MinHold: 5 * time.Minute,
				Probe: func(_ context.Context, tg Target) error {
					if !calm() && rand.IntN(2) == 0 {
						return errors.New("flap")
					}
					return nil
				}},
			Hooks: &Hooks{State: func(*Backend, BackendState, BackendState) { changes.Add(1) }},
		})
		require.NoError(t, err)
		defer b.Close()
		for !calm() {
			time.Sleep(time.Minute)
			l, err := b.Pick(t.Context(), Key{})
			require.NoError(t, err)
			l.Done(Result{})
		}
		time.Sleep(time.Hour)
		for _, be := range b.Backends() {
			require.Equal(t, StateUp, be.State())
		}
		require.LessOrEqual(t, changes.Load(), int64(5*24*60/5+5))
		require.Greater(t, changes.Load(), int64(100))
	})
}
