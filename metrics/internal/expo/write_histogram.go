package expo

import (
	"math"
	"strconv"
)

// bounds are the upper bounds of classic buckets with their labels for the text formats; the last is +Inf.
type bounds struct {
	values []float64
	labels [OpenMetrics + 1][]string
}

func newBounds(values []float64) *bounds {
	b := &bounds{values: append(values, math.Inf(1))}
	for _, f := range []Format{Text, OpenMetrics} {
		for _, v := range b.values {
			b.labels[f] = append(b.labels[f], boundLabel("le", f, v))
		}
	}
	return b
}

var durationBounds = func() *bounds {
	var b []float64
	for _, i := range classicBounds {
		b = append(b, Upper(i-firstIndex))
	}
	return newBounds(b)
}()

// Durations adds a histogram of durations: classic buckets, and in protobuf the native ones too. Exemplars may be nil;
// the text format has none.
func (f *Family) Durations(l Labels, s *DurationsSnapshot, e *Exemplars) {
	at := s.classic()
	if f.page.format != Protobuf {
		f.textBuckets(l, durationBounds, at[:], e)
		f.sumAndCount(l, s.Sum.Seconds(), s.Count)
		return
	}
	m := appendDouble(appendVarint(f.scratch[:0], 1, s.Count), 2, s.Sum.Seconds())
	m = appendProtoBuckets(m, durationBounds, at[:], e)
	f.scratch = appendNative(m, &s.Counts)
	f.protoMessage(l, 7, f.scratch)
}

func (f *Family) textBuckets(l Labels, b *bounds, at []uint64, e *Exemplars) {
	labels := b.labels[f.page.format]
	for i, n := range at {
		openText(f, "_bucket", l.text, labels[i])
		f.buf = strconv.AppendUint(f.buf, n, 10)
		if e != nil && f.page.format == OpenMetrics {
			if x := e[i].Load(); x != nil {
				f.buf = append(append(append(f.buf, ` # {trace_id="`...), x.trace...), `"} `...)
				f.buf = strconv.AppendFloat(f.buf, x.value, 'g', -1, 64)
				f.buf = strconv.AppendFloat(append(f.buf, ' '), float64(x.at.UnixMilli())/1000, 'f', 3, 64)
			}
		}
		f.buf = append(f.buf, '\n')
	}
}

// appendProtoBuckets adds classic buckets. That of +Inf is implied by the count, unless it has an exemplar.
func appendProtoBuckets(m []byte, b *bounds, at []uint64, e *Exemplars) []byte {
	for i, n := range at {
		var x *exemplar
		if e != nil {
			x = e[i].Load()
		}
		if x == nil && i == len(at)-1 {
			break
		}
		var bucket [160]byte
		q := appendDouble(appendVarint(bucket[:0], 1, n), 2, b.values[i])
		if x != nil {
			q = appendBytes(q, 3, x.proto())
		}
		m = appendBytes(m, 3, q)
	}
	return m
}

func (x *exemplar) proto() []byte {
	at := appendVarint(nil, 1, uint64(x.at.Unix()))
	at = appendVarint(at, 2, uint64(x.at.Nanosecond()))
	return appendBytes(appendDouble(appendProtoLabel(nil, 1, "trace_id", x.trace), 2, x.value), 3, at)
}

// appendNative adds the native buckets (Prometheus's sparse histograms): runs of buckets that have counts, and the
// differences between neighbors. What is shorter than the first bound is in the zero bucket.
func appendNative(m []byte, counts *Buckets) []byte {
	m = appendZigzag(m, 5, schema)
	m = appendVarint(appendDouble(m, 6, Upper(0)), 7, counts[0])
	next := 0 // the index after the last run; the first offset counts from index 0 of the schema
	spans := 0
	for i := 1; i < NumBuckets; i++ {
		if counts[i] == 0 {
			continue
		}
		start := i
		for i < NumBuckets && counts[i] != 0 {
			i++
		}
		m = appendSpan(m, int64(start+firstIndex-next), uint64(i-start))
		next, spans = i+firstIndex, spans+1
	}
	if spans == 0 { // says that it is a native histogram, though an empty one
		m = appendSpan(m, 0, 0)
	}
	before := int64(0)
	for _, n := range counts[1:] {
		if n != 0 {
			m = appendZigzag(m, 13, int64(n)-before)
			before = int64(n)
		}
	}
	return m
}

func appendSpan(m []byte, offset int64, n uint64) []byte {
	var span [16]byte
	return appendBytes(m, 12, appendVarint(appendZigzag(span[:0], 1, offset), 2, n))
}
