package metrics

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tierkit/tierkit/metrics/internal/expo"
)

var (
	errHung  = errors.New("an earlier call has not returned")
	errLate  = errors.New("it took longer than Options.Timeout")
	errEnded = errors.New("it ended its goroutine")
)

func newGuest(c Collector) *guest {
	return &guest{c: c, pages: sync.Pool{New: func() any { return expo.NewPage() }}}
}

// outcome is the page of a collector, or why there is none.
type outcome struct {
	page *expo.Page
	err  error
}

// start runs the collector in a goroutine of its own: it calls functions of the application, which may panic or hang.
func (g *guest) start(f expo.Format, contentType string) <-chan outcome {
	done := make(chan outcome, 1)
	if g.hung.Load() {
		done <- outcome{err: errHung}
		return done
	}
	go func() {
		p := g.pages.Get().(*expo.Page)
		p.Reset(f)
		err := errEnded
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("it panicked: %v", r)
			}
			done <- outcome{p, err}
			g.hung.Store(false) // after it is sent: see markHung
		}()
		g.c.Collect(&Scrape{p, contentType})
		err = nil
	}()
	return done
}

// collect runs the collectors at the same time. The result has a page for each, nil for those that failed.
func (m *Metrics) collect(guests []*guest, f expo.Format, contentType string) (pages []*expo.Page, failed int) {
	running := make([]<-chan outcome, len(guests))
	for i, g := range guests {
		running[i] = g.start(f, contentType)
	}
	timer := time.NewTimer(m.o.Timeout)
	defer timer.Stop()
	pages = make([]*expo.Page, len(guests))
	expired := false
	for i, done := range running {
		o := outcome{err: errLate}
		if expired {
			select {
			case o = <-done:
			default:
			}
		} else {
			select {
			case o = <-done:
			case <-timer.C:
				expired = true
			}
		}
		if o.err == errLate {
			guests[i].markHung(done)
		}
		if o.err != nil {
			failed++
			m.report(guests[i].c, o.err)
			continue
		}
		pages[i] = o.page
	}
	return pages, failed
}

// markHung keeps scrapes from calling a collector that has not returned. It may return at the same time: start clears
// the mark after it has sent, so that one of the two sees the other.
func (g *guest) markHung(done <-chan outcome) {
	g.hung.Store(true)
	select {
	case <-done:
		g.hung.Store(false)
	default:
	}
}

// Scrape returns one page of all series in the format that an Accept header asks for ("" is Prometheus's text format),
// and its content type.
func (m *Metrics) Scrape(accept string) (page []byte, contentType string) {
	f, contentType := expo.Negotiate(accept)
	return m.appendScrape(nil, f, contentType), contentType
}

func (m *Metrics) appendScrape(b []byte, f expo.Format, contentType string) []byte {
	m.mu.Lock()
	guests := m.guests[:len(m.guests):len(m.guests)]
	m.mu.Unlock()
	pages, failed := m.collect(guests, f, contentType)
	if failed > 0 {
		p := expo.NewPage()
		p.Reset(f)
		(&Scrape{page: p}).Gauge(m.Name("metrics_collector_failures"), "Collectors that failed in this scrape",
			float64(failed))
		pages = append(pages, p)
	}
	b = expo.Join(b, f, pages)
	for i, g := range guests {
		if pages[i] != nil {
			g.pages.Put(pages[i])
		}
	}
	return b
}

var (
	buffers = sync.Pool{New: func() any { return new([]byte) }}
	zippers = sync.Pool{New: func() any { w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed); return w }}
)

// Handler answers scrapes: in Prometheus's text format and OpenMetrics, compressed when asked, and in protobuf, which
// carries the native histograms. A collector that fails does not hide the others, in any format: the number of those
// that failed is the sample metrics_collector_failures.
func (m *Metrics) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, contentType := expo.Negotiate(strings.Join(r.Header.Values("Accept"), ","))
		buffer := buffers.Get().(*[]byte)
		defer buffers.Put(buffer)
		body := m.appendScrape((*buffer)[:0], f, contentType)
		*buffer = body
		h := w.Header()
		h.Set("Content-Type", contentType)
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && r.Method != http.MethodHead {
			h.Set("Content-Encoding", "gzip")
			z := zippers.Get().(*gzip.Writer)
			defer zippers.Put(z)
			z.Reset(w)
			if _, err := z.Write(body); err == nil {
				_ = z.Close() // the scraper has left
			}
			return
		}
		h.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
}
