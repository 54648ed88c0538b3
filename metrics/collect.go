package metrics

import (
	"database/sql"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/metrics/internal/expo"
)

// Collect turns a Stats struct into series: every field tagged `metric:"name,kind,help"` (kind counter or gauge)
// becomes prefix_name. A field that is a struct, or a slice of structs, contributes its own fields; string fields
// tagged `label:"name"` in a struct label its series. Durations become seconds and booleans 0 or 1. Fields without tag
// are left out. f is called when the collector is registered and at each scrape, possibly at the same time by several,
// and must be cheap and safe at any time.
//
// Register refuses the collector when a tag names another kind, an invalid name, or a field that is no number.
func Collect[S any](prefix string, f func() S) Collector {
	return &statsCollector{prefix: prefix, of: reflect.TypeFor[S](),
		read: func() reflect.Value { return reflect.ValueOf(f()) }}
}

// CollectDB turns the pool statistics of a *sql.DB into series, labeled by name.
func CollectDB(prefix, name string, db *sql.DB) Collector {
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
	of     reflect.Type
	read   func() reflect.Value
	plans  sync.Map // reflect.Type to *plan: what a struct's tags say, read once
	fields atomic.Int32
}

// plan is what the tags of one struct type say.
type plan struct {
	labels []labelField
	values []valueField
	inner  []int // fields that are structs, pointers to them, or slices of them
}

type labelField struct {
	index int
	name  string
}

type valueField struct {
	index  int
	id     int // among the collector's values
	series expo.Series
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
			p.labels = append(p.labels, labelField{i, name})
			continue
		}
		if !f.IsExported() {
			continue
		}
		if number := numberOf(f.Type); number != nil {
			if tag, ok := f.Tag.Lookup("metric"); ok {
				p.values = append(p.values, valueField{i, int(c.fields.Add(1)) - 1, c.series(tag), number})
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

// series reads a tag `metric:"name,kind,help"`.
func (c *statsCollector) series(tag string) expo.Series {
	name, rest, _ := strings.Cut(tag, ",")
	kind, help, _ := strings.Cut(rest, ",")
	s := expo.Series{Name: c.prefix + "_" + name, Help: help, Kind: expo.Gauge}
	if strings.TrimSpace(kind) == "counter" {
		s.Kind = expo.Counter
	}
	return s
}

// check looks for tags that cannot become series, in all struct types that the statistics consist of.
func (c *statsCollector) check() error {
	if !expo.ValidName(c.prefix) {
		return fmt.Errorf("prefix %q: want letters, digits and _, not beginning with a digit", c.prefix)
	}
	return c.checkType(c.of, map[reflect.Type]bool{})
}

func (c *statsCollector) checkType(t reflect.Type, seen map[reflect.Type]bool) error {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || seen[t] {
		return nil
	}
	seen[t] = true
	for i := range t.NumField() {
		f := t.Field(i)
		if name, ok := f.Tag.Lookup("label"); ok && !expo.ValidLabel(name) {
			return fmt.Errorf("%v.%s: %q is no name of a label", t, f.Name, name)
		}
		tag, tagged := f.Tag.Lookup("metric")
		if !tagged {
			if f.IsExported() {
				if err := c.checkType(f.Type, seen); err != nil {
					return err
				}
			}
			continue
		}
		_, rest, _ := strings.Cut(tag, ",")
		kind, _, _ := strings.Cut(rest, ",")
		switch kind = strings.TrimSpace(kind); {
		case !f.IsExported():
			return fmt.Errorf("%v.%s has a metric tag and is not exported", t, f.Name)
		case numberOf(f.Type) == nil:
			return fmt.Errorf("%v.%s has a metric tag and is no number: %v", t, f.Name, f.Type)
		case kind != "counter" && kind != "gauge":
			return fmt.Errorf("%v.%s: kind %q: want counter or gauge", t, f.Name, kind)
		case !expo.ValidName(c.series(tag).Name):
			return fmt.Errorf("%v.%s: %q is no name of a series", t, f.Name, c.series(tag).Name)
		}
	}
	return nil
}

func (c *statsCollector) String() string { return c.prefix }

// walker goes through a Stats value. The labels of the structs around a field are a stack that grows and shrinks with
// the walk.
type walker struct {
	c        *statsCollector
	page     *expo.Page
	families []*expo.Family // by valueField.id
	labels   []byte
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
	outer := len(w.labels)
	for _, l := range p.labels {
		w.labels = w.page.AppendLabel(w.labels, l.name, v.Field(l.index).String())
	}
	for i := range p.values {
		f := &p.values[i]
		w.family(f).SampleBytes(w.labels, f.number(v.Field(f.index)))
	}
	for _, i := range p.inner {
		w.walk(v.Field(i))
	}
	w.labels = w.labels[:outer]
}

// family looks a field's family up once a walk.
func (w *walker) family(f *valueField) *expo.Family {
	for len(w.families) <= f.id {
		w.families = append(w.families, nil)
	}
	if w.families[f.id] == nil {
		w.families[f.id] = w.page.Family(&f.series)
	}
	return w.families[f.id]
}

func (c *statsCollector) Collect(s *Scrape) {
	w := walker{c: c, page: s.page}
	w.walk(c.read())
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
