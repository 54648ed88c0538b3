package lb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
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
		if err := skipAnswer(br); err != nil {
			return lat, err
		}
		lat = append(lat, time.Since(due))
	}
	return lat, nil
}

// skipAnswer reads an answer of known length without allocating: garbage collections here, on the processors of those
// that are measured, would be taken for theirs.
func skipAnswer(br *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")):
			return fmt.Errorf("answer %q", line)
		case len(line) == 0 && length < 0:
			return errors.New("answer without a length")
		case len(line) == 0:
			_, err := br.Discard(length)
			return err
		case bytes.EqualFold(name, []byte("Content-Length")):
			length = 0
			for _, digit := range bytes.TrimSpace(value) {
				length = 10*length + int(digit-'0')
			}
		}
	}
}
