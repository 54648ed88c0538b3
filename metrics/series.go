package metrics

import (
	"math"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

var inf = math.Inf(1)

// kind is a type of series as the exposition formats name it.
type kind uint8

const (
	gauge kind = iota
	counter
	histogram
)

func (k kind) String() string { return [...]string{"gauge", "counter", "histogram"}[k] }

// series is the name and meaning that the samples of one family share.
type series struct {
	name, help string
	kind       kind
	labels     []string
	desc       *prometheus.Desc
}

func newSeries(name, help string, k kind, labels ...string) series {
	return series{name, help, k, labels, prometheus.NewDesc(name, help, labels, nil)}
}

// metric is one sample for Prometheus's own machinery.
func (s *series) metric(v float64, labels ...string) prometheus.Metric {
	t := prometheus.GaugeValue
	if s.kind == counter {
		t = prometheus.CounterValue
	}
	return prometheus.MustNewConstMetric(s.desc, t, v, labels...)
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// appendLabel adds name="value" with what the text formats escape.
func appendLabel(b []byte, name, value string) []byte {
	if len(b) > 0 {
		b = append(b, ',')
	}
	b = append(append(b, name...), '=', '"')
	for i := range len(value) {
		if c := value[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x80 {
			value = escapeLabel.Replace(strings.ToValidUTF8(value, "\uFFFD"))
			break
		}
	}
	return append(append(b, value...), '"')
}

// renderLabels returns the pairs as they stand between braces.
func renderLabels(names, values []string) string {
	var b []byte
	for i, n := range names {
		b = appendLabel(b, n, values[i])
	}
	return string(b)
}

// join puts two rendered lists together.
func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "," + b
}
