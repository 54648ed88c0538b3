package lb

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// openLoop sends rate requests per second over conns connections, each on its own schedule whatever the answers do, and
// returns the latency from when a request was due (wrk can't: its loop is closed).
func openLoop(addr string, rate float64, conns int, length time.Duration) (p50, p99 float64, err error) {
	gap := time.Duration(float64(conns) / rate * float64(time.Second))
	start := time.Now().Add(100 * time.Millisecond)
	var mu sync.Mutex // guards what follows
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			lat, err := paced(addr, start.Add(gap*time.Duration(i)/time.Duration(conns)), gap, length)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, lat...)
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	if failed != nil || len(all) == 0 {
		return 0, 0, errors.Join(failed, errors.New("no answers"))
	}
	slices.Sort(all)
	at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Microseconds()) }
	return at(0.5), at(0.99), nil
}

func paced(addr string, due time.Time, gap, length time.Duration) (lat []time.Duration, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	br := bufio.NewReaderSize(c, 16<<10)
	req := []byte("GET / HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
	for end := due.Add(length); due.Before(end); due = due.Add(gap) {
		time.Sleep(time.Until(due))
		if _, err := c.Write(req); err != nil {
			return lat, err
		}
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return lat, err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return lat, err
		}
		lat = append(lat, time.Since(due))
	}
	return lat, nil
}
