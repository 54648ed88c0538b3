package expo

import (
	"math"
	"strconv"
	"strings"
)

// Sample adds a sample with two sets of labels, either of which may be empty.
func (f *Family) Sample(l, extra Labels, v float64) {
	if f.page.format == Protobuf {
		f.protoSample(l.proto, extra.proto, nil, v)
		return
	}
	openText(f, "", l.text, extra.text)
	f.buf = append(appendValue(f.buf, v), '\n')
}

// Count adds a whole number, exactly where the format allows it.
func (f *Family) Count(l, extra Labels, n uint64) {
	if f.page.format == Protobuf {
		f.protoSample(l.proto, extra.proto, nil, float64(n))
		return
	}
	openText(f, "", l.text, extra.text)
	f.buf = append(strconv.AppendUint(f.buf, n, 10), '\n')
}

// AppendLabel adds a label in the page's format to b, for SampleBytes.
func (p *Page) AppendLabel(b []byte, name, value string) []byte {
	if p.format == Protobuf {
		return appendProtoLabel(b, 1, name, value)
	}
	return appendTextLabel(b, name, value)
}

// SampleBytes is Sample with labels that AppendLabel rendered.
func (f *Family) SampleBytes(labels []byte, v float64) {
	if f.page.format == Protobuf {
		f.protoSample("", "", labels, v)
		return
	}
	openText(f, "", labels, "")
	f.buf = append(appendValue(f.buf, v), '\n')
}

// Raw adds samples that are written in the page's format already: lines, or fields of a MetricFamily.
func (f *Family) Raw(samples []byte) { f.buf = append(f.buf, samples...) }

// openText begins a line: the name, the labels and the space before the value.
func openText[T string | []byte](f *Family, suffix string, labels T, extra string) {
	b := append(append(f.buf, f.series.Name...), suffix...)
	if c := f.page.constant.text; len(c)+len(labels)+len(extra) > 0 {
		open := byte('{')
		if len(c) > 0 {
			b, open = append(append(b, open), c...), ','
		}
		if len(labels) > 0 {
			b, open = append(append(b, open), labels...), ','
		}
		if len(extra) > 0 {
			b = append(append(b, open), extra...)
		}
		b = append(b, '}')
	}
	f.buf = append(b, ' ')
}

func appendValue(b []byte, v float64) []byte {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.AppendInt(b, int64(v), 10)
	}
	return appendFloat(b, v)
}

func appendFloat(b []byte, v float64) []byte {
	if math.IsInf(v, 1) {
		return append(b, "+Inf"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64) // NaN and -Inf are spelled as the formats want them
}

// boundLabel is a bound of a bucket or quantile: text format and OpenMetrics write whole numbers differently.
func boundLabel(name string, format Format, v float64) string {
	s := string(appendFloat(nil, v))
	if format == OpenMetrics && !strings.ContainsAny(s, ".eI") {
		s += ".0"
	}
	return name + `="` + s + `"`
}

// Quantile is one value of a summary.
type Quantile struct{ Q, Value float64 }

// Summary adds a summary: its quantiles, sum and count.
func (f *Family) Summary(l Labels, quantiles []Quantile, sum float64, count uint64) {
	if f.page.format == Protobuf {
		m := appendDouble(appendVarint(f.scratch[:0], 1, count), 2, sum)
		for _, q := range quantiles {
			m = append(m, 3<<3|length, 18)
			m = appendDouble(appendDouble(m, 1, q.Q), 2, q.Value)
		}
		f.scratch = m
		f.protoMessage(l, 4, m)
		return
	}
	for _, q := range quantiles {
		openText(f, "", l.text, boundLabel("quantile", f.page.format, q.Q))
		f.buf = append(appendValue(f.buf, q.Value), '\n')
	}
	f.sumAndCount(l, sum, count)
}

// sumAndCount ends a histogram or summary in the text formats.
func (f *Family) sumAndCount(l Labels, sum float64, count uint64) {
	openText(f, "_sum", l.text, "")
	f.buf = append(appendFloat(f.buf, sum), '\n')
	openText(f, "_count", l.text, "")
	f.buf = append(strconv.AppendUint(f.buf, count, 10), '\n')
}

func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
