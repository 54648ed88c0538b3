package metrics

import (
	"database/sql"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Collect turns a Stats struct into series: every field tagged `metric:"name,kind,help"` (kind counter or gauge)
// becomes prefix_name. A field that is a struct, or a slice of structs, contributes its own fields; string fields
// tagged `label:"name"` in a struct label its series. Durations become seconds and booleans 0 or 1. f is called at each
// scrape and must be cheap and safe at any time. Fields of other types and without tag are left out.
func Collect[S any](prefix string, f func() S) prometheus.Collector {
	return &statsCollector{prefix: prefix, read: func() reflect.Value { return reflect.ValueOf(f()) }}
}

// CollectDB turns the pool statistics of a *sql.DB into series, labelled by name.
func CollectDB(prefix, name string, db *sql.DB) prometheus.Collector {
	return Collect(prefix, func() dbStats {
		s := db.Stats()
		return dbStats{name, s.OpenConnections, s.InUse, s.Idle, s.WaitCount, s.WaitDuration, s.MaxIdleClosed +
			s.MaxIdleTimeClosed + s.MaxLifetimeClosed}
	})
}

type dbStats struct {
	Name   string        `label:"db"`
	Open   int           `metric:"connections_open,gauge,Connections open"`
	InUse  int           `metric:"connections_in_use,gauge,Connections in use"`
	Idle   int           `metric:"connections_idle,gauge,Connections idle"`
	Waits  int64         `metric:"connection_waits_total,counter,Times a caller waited for a connection"`
	Waited time.Duration `metric:"connection_wait_seconds_total,counter,Time callers waited for a connection"`
	Closed int64         `metric:"connections_closed_total,counter,Connections closed by a limit of the pool"`
}

type statsCollector struct {
	prefix string
	read   func() reflect.Value
	plans  sync.Map // reflect.Type to *plan: what a struct's tags say, read once
	fields atomic.Int32
}

// plan is what the tags of one struct type say.
type plan struct {
	labels []field
	values []field
	inner  []int // fields that are structs, pointers to them, or slices of them
}

type field struct {
	index  int
	id     int    // among the collector's values
	series        // of a value
	label  string // the name of a label
	number func(reflect.Value) float64
}

func (c *statsCollector) plan(t reflect.Type) *plan {
	if p, ok := c.plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{}
	for i := range t.NumField() {
		f := t.Field(i)
		if name, ok := f.Tag.Lookup("label"); ok && f.Type.Kind() == reflect.String {
			p.labels = append(p.labels, field{index: i, label: name})
			continue
		}
		if !f.IsExported() {
			continue
		}
		if number := numberOf(f.Type); number != nil {
			if tag, ok := f.Tag.Lookup("metric"); ok {
				name, rest, _ := strings.Cut(tag, ",")
				what, help, _ := strings.Cut(rest, ",")
				k := gauge
				if strings.TrimSpace(what) == "counter" {
					k = counter
				}
				p.values = append(p.values, field{index: i, id: int(c.fields.Add(1)) - 1, number: number,
					series: series{name: c.prefix + "_" + name, help: help, kind: k}})
			}
			continue
		}
		switch f.Type.Kind() {
		case reflect.Struct, reflect.Slice, reflect.Pointer, reflect.Interface:
			p.inner = append(p.inner, i)
		}
	}
	kept, _ := c.plans.LoadOrStore(t, p)
	return kept.(*plan)
}

// walker goes through a Stats value. The labels of the structs around a field are stacks that grow and shrink with the
// walk.
type walker struct {
	c *statsCollector
	// page is set to render: then text holds the labels. Otherwise names and values do, for metrics.
	page          *page
	families      []*family // by field.id
	text          []byte
	names, values []string
	metrics       chan<- prometheus.Metric
}

func (w *walker) walk(v reflect.Value) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	switch {
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		p := w.c.plan(v.Type().Elem())
		for i := range v.Len() {
			w.fields(v.Index(i), p)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			w.walk(v.Index(i))
		}
	case v.Kind() == reflect.Struct:
		w.fields(v, w.c.plan(v.Type()))
	}
}

func (w *walker) fields(v reflect.Value, p *plan) {
	text, labels := len(w.text), len(w.names)
	for i := range p.labels {
		name, value := p.labels[i].label, v.Field(p.labels[i].index).String()
		if w.page != nil {
			w.text = appendLabel(w.text, name, value)
		} else {
			w.names, w.values = append(w.names, name), append(w.values, value)
		}
	}
	for i := range p.values {
		f := &p.values[i]
		n := f.number(v.Field(f.index))
		if w.page != nil {
			w.family(f).sampleBytes(w.text, n)
		} else {
			x := newSeries(f.name, f.help, f.kind, slices.Clone(w.names)...) // the metric keeps them, and is read later
			w.metrics <- x.metric(n, w.values...)
		}
	}
	for _, i := range p.inner {
		w.walk(v.Field(i))
	}
	w.text, w.names, w.values = w.text[:text], w.names[:labels], w.values[:labels]
}

// family looks a field's family up once a walk.
func (w *walker) family(f *field) *family {
	for len(w.families) <= f.id {
		w.families = append(w.families, nil)
	}
	if w.families[f.id] == nil {
		w.families[f.id] = w.page.family(&f.series)
	}
	return w.families[f.id]
}

// Describe sends nothing: the labels of nested slices are known only when there are elements, so the collector is
// unchecked in the registry's sense.
func (c *statsCollector) Describe(chan<- *prometheus.Desc) {}

func (c *statsCollector) Collect(ch chan<- prometheus.Metric) {
	w := walker{c: c, metrics: ch}
	w.walk(c.read())
}

func (c *statsCollector) render(p *page, constant string) {
	clear(p.byField)
	w := walker{c: c, page: p, text: append(p.labels[:0], constant...), families: p.byField[:0]}
	w.walk(c.read())
	p.labels, p.byField = w.text, w.families
}

var durationType = reflect.TypeFor[time.Duration]()

// numberOf returns how a type becomes a sample, nil when it can't.
func numberOf(t reflect.Type) func(reflect.Value) float64 {
	switch {
	case t == durationType:
		return func(v reflect.Value) float64 { return time.Duration(v.Int()).Seconds() }
	case t.Kind() == reflect.Bool:
		return func(v reflect.Value) float64 {
			if v.Bool() {
				return 1
			}
			return 0
		}
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		return func(v reflect.Value) float64 { return float64(v.Int()) }
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uintptr:
		return func(v reflect.Value) float64 { return float64(v.Uint()) }
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return reflect.Value.Float
	}
	return nil
}
