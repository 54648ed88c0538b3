package logs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/internal/warn"
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
	// Bytes bounds the memory of the records that wait. Zero means 32 MiB.
	Bytes int64
	// Batch is how many records go at once, as far as they have at most 1 MiB. Zero means 500.
	Batch int
	// Interval is how long a record waits for others. Zero means 1 s.
	Interval time.Duration
	// Logger gets a record at level Warn when shipments fail or records are dropped, at most one a minute. Nil means
	// slog.Default(). It may write to the Handler that ships here.
	Logger *slog.Logger
}

// Shipper sends log records to a collector, in the background and in batches. A batch is sent until it arrives, so none
// is lost while the buffer has room, and the collector keeps each once. All methods are safe for concurrent use.
type Shipper struct {
	o        ShipperOptions
	name     string // of this process, for the collector's memory
	warnings *warn.Log
	failures warn.Tally
	kick     chan struct{}
	stop     context.CancelFunc
	done     chan struct{}

	mu      sync.Mutex // guards what follows
	waiting []Record
	bytes   int64 // of the records that wait
	closed  bool
	stats   ShipperStats
}

// ShipperStats count records.
type ShipperStats struct {
	Waiting int    `metric:"waiting,gauge,Records that wait to be shipped"`
	Shipped uint64 `metric:"shipped_total,counter,Records shipped"`
	Dropped uint64 `metric:"dropped_total,counter,Records dropped: the buffer was full, or they were refused"`
	Failed  uint64 `metric:"failures_total,counter,Shipments that failed and were repeated"`
	// LastError is the latest failure, "" before the first, and LastErrorAt its time.
	LastError   string
	LastErrorAt time.Time
}

// NewShipper starts shipping. Shutdown and Close end it.
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
	if o.Bytes <= 0 {
		o.Bytes = 32 << 20
	}
	if o.Batch <= 0 {
		o.Batch = 500
	}
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Shipper{o: o, name: rand.Text(), warnings: warn.New(o.Logger), kick: make(chan struct{}, 1), stop: stop,
		done: make(chan struct{})}
	go s.run(ctx)
	return s, nil
}

// Add queues a record; it never blocks. After Shutdown or Close it drops it.
func (s *Shipper) Add(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.stats.Dropped++
		return
	}
	r = r.bounded()
	if len(s.waiting) >= s.o.Buffer || s.bytes+r.size() > s.o.Bytes {
		// a tenth at once, so that a full buffer costs little
		n := min(1+len(s.waiting)/10, len(s.waiting))
		s.forget(n)
		s.stats.Dropped += uint64(n)
	}
	s.waiting = append(s.waiting, r)
	s.bytes += r.size()
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
	_, st.LastError, st.LastErrorAt = s.failures.Load()
	return st
}

// Shutdown sends what waits, until ctx ends, and stops. It returns ctx's error when records were left.
func (s *Shipper) Shutdown(ctx context.Context) error {
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
	_ = s.Close()
	if s.Stats().Waiting > 0 {
		return fmt.Errorf("logs: %d records were not shipped: %w", s.Stats().Waiting, ctx.Err())
	}
	return nil
}

// Close stops at once; Stats then counts the records that were left as waiting. It is idempotent and returns nil.
func (s *Shipper) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	<-s.done
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
			s.mu.Lock() // for Stats to count
			s.waiting = append(batch, s.waiting...)
			s.mu.Unlock()
			return
		}
		shipment++
		if s.Stats().Waiting < s.o.Batch && !closed {
			select {
			case <-ctx.Done():
			case <-s.kick:
			case <-t.C:
			}
		}
	}
}

// maxBatch bounds the records of one shipment in bytes; a Store takes 8 MiB.
const maxBatch = 1 << 20

func (s *Shipper) take() (batch []Record, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, int64(0)
	for n < min(len(s.waiting), s.o.Batch) && (n == 0 || bytes+s.waiting[n].size() <= maxBatch) {
		bytes += s.waiting[n].size()
		n++
	}
	batch = append(batch, s.waiting[:n]...)
	s.forget(n)
	return batch, s.closed
}

// forget removes the oldest n records that wait. The caller holds s.mu.
func (s *Shipper) forget(n int) {
	for i := range s.waiting[:n] {
		s.bytes -= s.waiting[i].size()
	}
	left := len(s.waiting) - n
	copy(s.waiting, s.waiting[n:])
	clear(s.waiting[left:])
	s.waiting = s.waiting[:left]
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
		again, err := s.post(ctx, shipment, body.Bytes())
		s.mu.Lock()
		switch {
		case err == nil:
			s.stats.Shipped += uint64(len(batch))
		case !again:
			s.stats.Dropped += uint64(len(batch))
		default:
			s.stats.Failed++
		}
		s.mu.Unlock()
		if err == nil {
			s.warnings.Clear("ship", "logs: records are shipped again")
			return true
		}
		if ctx.Err() == nil {
			s.failures.Add(err)
			s.warnings.Warn("ship", "logs: records are not shipped", "url", s.o.URL, "dropped", !again, "err", err)
		}
		if !again {
			return true
		}
		if backoff.Sleep(ctx, wait.Delay(attempt)) != nil {
			return false
		}
	}
}

// post sends a shipment once. Again reports whether it makes sense to send it again after the error: not when the
// collector does not take what it says.
func (s *Shipper) post(ctx context.Context, shipment uint64, body []byte) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.URL, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("Content-Encoding", "gzip")
	r.Header.Set("Authorization", "Bearer "+s.o.Token)
	r.Header.Set("X-Shipment", fmt.Sprintf("%s/%d", s.name, shipment))
	res, err := s.o.Client.Do(r)
	if err != nil {
		return true, err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)) // so that the connection is used again
	switch code := res.StatusCode; {
	case code < 300:
		return false, nil
	case code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge:
		return false, fmt.Errorf("the collector answered %s", res.Status)
	default:
		return true, fmt.Errorf("the collector answered %s", res.Status)
	}
}
