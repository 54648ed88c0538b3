package metrics

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
)

// renderer is a collector that writes itself as text. Prometheus's way builds, sorts and checks an object for each
// sample and then prints it, which for thousands of series costs most of a scrape.
type renderer interface {
	prometheus.Collector
	// render adds the samples to the page's families; constant are rendered labels that all of them get.
	render(p *page, constant string)
}

// page is one scrape while it is written. Pages are used again, so that a scrape allocates little.
type page struct {
	openMetrics bool
	families    map[string]*family
	used        []*family
	out         []byte
	scratch     bytes.Buffer
	labels      []byte    // scratch of collectors, as is
	byField     []*family // this
}

// family is the part of a page that one name has: all samples of a name must stand together, whoever they come from.
type family struct {
	name, help string
	kind       string
	listed     bool // in the page's used
	buf        []byte
}

var pages = sync.Pool{New: func() any { return &page{families: map[string]*family{}} }}

func (p *page) family(s *series) *family { return p.named(s.name, s.help, s.kind) }

func (p *page) named(name, help string, k kind) *family {
	f := p.families[name]
	if f == nil {
		f = &family{name: name}
		p.families[name] = f
	}
	if !f.listed {
		f.listed, f.help, f.kind = true, help, k.String()
		if p.openMetrics && k == counter && !strings.HasSuffix(name, "_total") {
			f.kind = "unknown" // OpenMetrics has no counters of other names
		}
		p.used = append(p.used, f)
	}
	return f
}

// open begins a sample: its name and labels, without the closing brace.
func (f *family) open(suffix, labels string) {
	f.buf = append(append(append(append(f.buf, f.name...), suffix...), '{'), labels...)
}

// sample adds a whole one.
func (f *family) sample(labels string, v float64) { sample(f, labels, v) }

func (f *family) sampleBytes(labels []byte, v float64) { sample(f, labels, v) }

func sample[T string | []byte](f *family, labels T, v float64) {
	b := append(f.buf, f.name...)
	if len(labels) > 0 {
		b = append(append(append(b, '{'), labels...), '}')
	}
	b = append(b, ' ')
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		b = strconv.AppendInt(b, int64(v), 10)
	} else {
		b = appendFloat(b, v)
	}
	f.buf = append(b, '\n')
}

func appendFloat(b []byte, v float64) []byte {
	if math.IsInf(v, 1) {
		return append(b, "+Inf"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64) // NaN and -Inf are spelled as the formats want them
}

func (f *family) uint(n uint64) { f.buf = append(strconv.AppendUint(f.buf, n, 10), '\n') }

// close adds the sum and count of a histogram.
func (f *family) close(labels string, sum float64, count uint64) {
	f.open("_sum", labels)
	f.buf = append(appendFloat(append(f.buf, `} `...), sum), '\n')
	f.open("_count", labels)
	f.buf = append(f.buf, `} `...)
	f.uint(count)
}

// openMetricsFloat spells a whole number as OpenMetrics wants it in "le".
func openMetricsFloat(s string) string {
	if strings.ContainsAny(s, ".e") {
		return s
	}
	return s + ".0"
}

// foreign adds what Prometheus's collectors gathered.
func (p *page) foreign(reg prometheus.Gatherer, format expfmt.Format) {
	// a collector that fails does not hide the others: what was gathered is there beside the error
	mfs, _ := reg.Gather()
	for _, mf := range mfs {
		p.scratch.Reset()
		if err := expfmt.NewEncoder(&p.scratch, format).Encode(mf); err != nil {
			continue
		}
		f := p.families[mf.GetName()]
		if f == nil {
			f = &family{name: mf.GetName()}
			p.families[f.name] = f
		}
		text := p.scratch.Bytes()
		if !f.listed {
			p.used = append(p.used, f)
			f.listed, f.kind = true, "" // its header is in the text
		} else {
			for bytes.HasPrefix(text, []byte("# ")) {
				_, text, _ = bytes.Cut(text, []byte("\n"))
			}
		}
		f.buf = append(f.buf, text...)
	}
}

// finish puts the families together in the order of their names.
func (p *page) finish() []byte {
	slices.SortFunc(p.used, func(a, b *family) int { return cmp.Compare(a.name, b.name) })
	out := p.out[:0]
	for _, f := range p.used {
		f.listed = false
		if f.kind != "" && len(f.buf) > 0 {
			name := f.name
			if p.openMetrics && f.kind == "counter" {
				name = strings.TrimSuffix(name, "_total")
			}
			out = append(append(append(append(out, "# HELP "...), name...), ' '), escapeHelp(f.help, p.openMetrics)...)
			out = append(append(append(append(append(out, "\n# TYPE "...), name...), ' '), f.kind...), '\n')
		}
		out = append(out, f.buf...)
		f.buf = f.buf[:0]
	}
	if p.openMetrics {
		out = append(out, "# EOF\n"...)
	}
	p.out, p.used = out, p.used[:0]
	return out
}

func escapeHelp(s string, openMetrics bool) string {
	if !strings.ContainsAny(s, "\\\n\"") {
		return s
	}
	s = strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "\n", `\n`)
	if openMetrics {
		s = strings.ReplaceAll(s, `"`, `\"`)
	}
	return s
}

var zippers = sync.Pool{New: func() any { w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed); return w }}

// Handler answers scrapes: in Prometheus's text format and OpenMetrics, compressed when asked, and in protobuf, which
// carries the native histograms. A collector that fails or panics does not hide the others; the error of one that
// panicked is the sample metrics_collector_failures.
func (m *Metrics) Handler() http.Handler {
	full := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError,
		EnableOpenMetrics: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...)
		switch format.FormatType() {
		case expfmt.TypeTextPlain, expfmt.TypeOpenMetrics:
		default:
			full.ServeHTTP(w, r)
			return
		}
		p := pages.Get().(*page)
		defer pages.Put(p)
		p.openMetrics = format.FormatType() == expfmt.TypeOpenMetrics
		m.mu.Lock()
		own := m.own[:len(m.own):len(m.own)]
		m.mu.Unlock()
		failures := 0
		for _, c := range own {
			if !renderSafely(p, c) {
				failures++
			}
		}
		if failures > 0 {
			p.named(m.name("metrics_collector_failures"), "Collectors that panicked in this scrape", gauge).sample("",
				float64(failures))
		}
		p.foreign(m.foreign, format)
		body := p.finish()
		h := w.Header()
		h.Set("Content-Type", string(format))
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

// renderSafely reports whether a collector came to its end: it calls functions of the application.
func renderSafely(p *page, c renderer) (ok bool) {
	defer func() {
		if recover() != nil {
			for _, f := range p.used { // it may have stopped in the middle of a line
				f.buf = f.buf[:bytes.LastIndexByte(f.buf, '\n')+1]
			}
		}
	}()
	c.render(p, "")
	return true
}

// labelled adds constant labels to a collector that renders itself.
type labelled struct {
	prometheus.Collector
	inner renderer
	text  string
}

func (l *labelled) render(p *page, constant string) { l.inner.render(p, join(constant, l.text)) }

// WithLabels adds constant labels to everything a collector yields, so that several instances of one kind (two edges,
// four pools) can be told apart under the same names.
func WithLabels(labels map[string]string, c prometheus.Collector) prometheus.Collector {
	wrapped := prometheus.WrapCollectorWith(labels, c)
	r, ok := c.(renderer)
	if !ok {
		return wrapped
	}
	var names, values []string
	for n := range labels {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		values = append(values, labels[n])
	}
	return &labelled{wrapped, r, renderLabels(names, values)}
}

// Register adds collectors: those that Collect makes, or any other of Prometheus. It returns an error that wraps
// Prometheus's when a series exists already with another meaning.
func (m *Metrics) Register(cs ...prometheus.Collector) error {
	for _, c := range cs {
		if err := m.registry.Register(c); err != nil {
			return fmt.Errorf("metrics: registering: %w", err)
		}
		if r, ok := c.(renderer); ok {
			m.mu.Lock()
			m.own = append(m.own, r)
			m.mu.Unlock()
		} else if err := m.foreign.Register(c); err != nil {
			return fmt.Errorf("metrics: registering: %w", err)
		}
	}
	return nil
}
