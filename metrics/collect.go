package metrics

import (
	"database/sql"
	"reflect"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Collect turns a Stats struct into series: every field tagged `metric:"name,kind,help"` (kind counter or gauge) becomes
// prefix_name. A field that is a struct, or a slice of structs, contributes its own fields; string fields tagged
// `label:"name"` in a struct label its series. Durations become seconds and booleans 0 or 1. f is called at each scrape and
// must be cheap and safe at any time. Fields of other types and without tag are left out.
func Collect[S any](prefix string, f func() S) prometheus.Collector {
	return &statsCollector{prefix: prefix, read: func() reflect.Value { return reflect.ValueOf(f()) }}
}

// CollectDB turns the pool statistics of a *sql.DB into series, labelled by name.
func CollectDB(prefix, name string, db *sql.DB) prometheus.Collector {
	return Collect(prefix, func() dbStats {
		s := db.Stats()
		return dbStats{name, s.OpenConnections, s.InUse, s.Idle, s.WaitCount, s.WaitDuration, s.MaxIdleClosed + s.MaxIdleTimeClosed + s.MaxLifetimeClosed}
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
}

// series is one value found in a Stats struct.
type series struct {
	name, help    string
	counter       bool
	value         float64
	labels, names []string
}

// Describe sends nothing: the labels of nested slices are known only when there are elements, so the collector is
// unchecked in the registry's sense.
func (c *statsCollector) Describe(chan<- *prometheus.Desc) {}

func (c *statsCollector) Collect(ch chan<- prometheus.Metric) {
	walk(c.read(), nil, nil, func(s series) {
		kind := prometheus.GaugeValue
		if s.counter {
			kind = prometheus.CounterValue
		}
		d := prometheus.NewDesc(c.prefix+"_"+s.name, s.help, s.names, nil)
		ch <- prometheus.MustNewConstMetric(d, kind, s.value, s.labels...)
	})
}

var durationType = reflect.TypeFor[time.Duration]()

// walk visits the tagged fields of v; names and labels are those of the structs around it.
func walk(v reflect.Value, names, labels []string, visit func(series)) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return
	}
	t := v.Type()
	for i := range t.NumField() {
		if name, ok := t.Field(i).Tag.Lookup("label"); ok && v.Field(i).Kind() == reflect.String {
			names, labels = append(names[:len(names):len(names)], name), append(labels[:len(labels):len(labels)], v.Field(i).String())
		}
	}
	for i := range t.NumField() {
		field, val := t.Field(i), v.Field(i)
		if !field.IsExported() {
			continue
		}
		switch val.Kind() {
		case reflect.Struct:
			walk(val, names, labels, visit)
			continue
		case reflect.Slice:
			for j := range val.Len() {
				walk(val.Index(j), names, labels, visit)
			}
			continue
		}
		tag, ok := field.Tag.Lookup("metric")
		if !ok {
			continue
		}
		name, rest, _ := strings.Cut(tag, ",")
		kind, help, _ := strings.Cut(rest, ",")
		if f, ok := number(val); ok {
			visit(series{name: name, help: help, counter: strings.TrimSpace(kind) == "counter", value: f, names: names, labels: labels})
		}
	}
}

func number(v reflect.Value) (float64, bool) {
	switch {
	case v.Type() == durationType:
		return time.Duration(v.Int()).Seconds(), true
	case v.CanInt():
		return float64(v.Int()), true
	case v.CanUint():
		return float64(v.Uint()), true
	case v.CanFloat():
		return v.Float(), true
	case v.Kind() == reflect.Bool:
		if v.Bool() {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// WithLabels adds constant labels to everything a collector yields, so that several instances of one kind (two edges, four
// pools) can be told apart under the same names.
func WithLabels(labels map[string]string, c prometheus.Collector) prometheus.Collector {
	return prometheus.WrapCollectorWith(labels, c)
}
