package logs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tierkit/tierkit/internal/backoff"
)

// ShipperOptions configure a Shipper.
type ShipperOptions struct {
	// URL is that of the collector, a Store, and Token the one it wants.
	URL, Token string
	// Client sends. Nil is a client with a timeout of 10 s.
	Client *http.Client
	// Buffer is how many records wait at most; the oldest go when it is full: a collector that is down must not take
	// the service with it. Zero means 10,000.
	Buffer int
	// Batch is how many records go at once. Zero means 500.
	Batch int
	// Interval is how long a record waits for others. Zero means 1 s.
	Interval time.Duration
}

// Shipper sends log records to a collector, in the background and in batches. A batch is sent until it arrives, so none
// is lost while the buffer has room, and the collector keeps each once. All methods are safe for concurrent use.
type Shipper struct {
	o    ShipperOptions
	name string // of this process, for the collector's memory
	kick chan struct{}
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex // guards what follows
	waiting []Record
	closed  bool
	stats   ShipperStats
}

// ShipperStats count records.
type ShipperStats struct {
	Waiting int    `metric:"waiting,gauge,Records that wait to be shipped"`
	Shipped uint64 `metric:"shipped_total,counter,Records shipped"`
	Dropped uint64 `metric:"dropped_total,counter,Records dropped because the buffer was full, or refused by the collector"`
	Failed  uint64 `metric:"failures_total,counter,Shipments that failed and were repeated"`
}

// NewShipper starts shipping. Close ends it.
func NewShipper(o ShipperOptions) (*Shipper, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("logs: ShipperOptions.URL %q: want http:// or https:// and a host", o.URL)
	}
	if len(o.Token) < 16 {
		return nil, errors.New("logs: ShipperOptions.Token is shorter than 16 bytes")
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: 10 * time.Second}
	}
	if o.Buffer <= 0 {
		o.Buffer = 10_000
	}
	if o.Batch <= 0 {
		o.Batch = 500
	}
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Shipper{o: o, name: rand.Text(), kick: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	go s.run(ctx)
	return s, nil
}

// Add queues a record; it never blocks. After Close it drops it.
func (s *Shipper) Add(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.stats.Dropped++
		return
	}
	if len(s.waiting) >= s.o.Buffer {
		// a tenth at once, so that a full buffer costs little
		s.waiting = append(s.waiting[:0], s.waiting[1+s.o.Buffer/10:]...)
		s.stats.Dropped += uint64(1 + s.o.Buffer/10)
	}
	s.waiting = append(s.waiting, r)
	if len(s.waiting) >= s.o.Batch {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}

// Stats returns the counts.
func (s *Shipper) Stats() ShipperStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Waiting = len(s.waiting)
	return st
}

// Close sends what waits, until ctx ends, and stops. It returns ctx's error when records were left.
func (s *Shipper) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	s.stop()
	<-s.done
	if s.Stats().Waiting > 0 {
		return fmt.Errorf("logs: %d log records were not shipped: %w", s.Stats().Waiting, ctx.Err())
	}
	return nil
}

func (s *Shipper) run(ctx context.Context) {
	defer close(s.done)
	defer s.stop()
	t := time.NewTicker(s.o.Interval)
	defer t.Stop()
	for shipment := uint64(1); ; {
		batch, closed := s.take()
		if len(batch) == 0 {
			if closed {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-s.kick:
			case <-t.C:
			}
			continue
		}
		if !s.send(ctx, shipment, batch) {
			s.mu.Lock() // for Close to count
			s.waiting = append(batch, s.waiting...)
			s.mu.Unlock()
			return
		}
		shipment++
		if len(batch) < s.o.Batch && !closed {
			select {
			case <-ctx.Done():
			case <-s.kick:
			case <-t.C:
			}
		}
	}
}

func (s *Shipper) take() (batch []Record, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.waiting), s.o.Batch)
	batch = append(batch, s.waiting[:n]...)
	s.waiting = append(s.waiting[:0], s.waiting[n:]...)
	return batch, s.closed
}

// send repeats until the collector has the batch, refuses it for good, or ctx ends, which it reports by false.
func (s *Shipper) send(ctx context.Context, shipment uint64, batch []Record) bool {
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	enc := json.NewEncoder(z)
	for i := range batch {
		_ = enc.Encode(&batch[i]) // strings and a time: cannot fail
	}
	_ = z.Close()
	var wait backoff.Policy
	for attempt := 0; ; attempt++ {
		status, err := s.post(ctx, shipment, body.Bytes())
		s.mu.Lock()
		switch {
		case err == nil && status < 300:
			s.stats.Shipped += uint64(len(batch))
			s.mu.Unlock()
			return true
		case err == nil && (status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge):
			s.stats.Dropped += uint64(len(batch)) // sending it again would not help
			s.mu.Unlock()
			return true
		}
		s.stats.Failed++
		s.mu.Unlock()
		if backoff.Sleep(ctx, wait.Delay(attempt)) != nil {
			return false
		}
	}
}

func (s *Shipper) post(ctx context.Context, shipment uint64, body []byte) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.URL, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("Content-Encoding", "gzip")
	r.Header.Set("Authorization", "Bearer "+s.o.Token)
	r.Header.Set("X-Shipment", fmt.Sprintf("%s/%d", s.name, shipment))
	res, err := s.o.Client.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)) // so that the connection is used again
	return res.StatusCode, nil
}
