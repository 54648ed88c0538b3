package session

import (
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"time"
	"unsafe"

	"github.com/tierkit/tierkit/internal/wire"
)

// The compact codec writes application data without gob's and JSON's cost per request: the plan of a type is made once,
// fields are found by name, so that they may be added, removed and moved between versions of the program; one whose
// type has changed is left at its zero value.
//
// A value is a wire type and its bytes: whole (varint; signed ones zigzag), fixed (8 bytes), text (length and bytes) or
// parts (4 bytes of length, a count, and that many values: names and fields, elements, keys and values). Zero fields
// are left out. Types that encode themselves, and interfaces, make the whole T go through JSON instead.
const (
	wireWhole = iota
	wireFixed
	wireText
	wireParts
)

var errData = errors.New("session: data does not parse")

// plan knows how to write and read one type.
type plan struct {
	kind   reflect.Kind
	time   bool
	bytes  bool
	elem   *plan // of slices, arrays, pointers, map values
	key    *plan // of maps
	fields []planField
}

type planField struct {
	name  string
	index int
	plan  *plan
}

var (
	timeType = reflect.TypeFor[time.Time]()
	selfMade = []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler](),
		reflect.TypeFor[json.Unmarshaler]()}
)

// planOf returns nil for a type that the codec does not write.
func planOf(t reflect.Type, made map[reflect.Type]*plan) *plan {
	if p, ok := made[t]; ok {
		return p
	}
	p := &plan{kind: t.Kind()}
	made[t] = p
	ok := true
	sub := func(t reflect.Type) *plan {
		s := planOf(t, made)
		ok = ok && s != nil
		return s
	}
	if t == timeType {
		p.time = true
		return p
	}
	for _, i := range selfMade {
		if t.Implements(i) || reflect.PointerTo(t).Implements(i) {
			made[t] = nil
			return nil
		}
	}
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.String,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
	case reflect.Slice, reflect.Array:
		p.bytes = t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
		p.elem = sub(t.Elem())
	case reflect.Pointer:
		p.elem = sub(t.Elem())
	case reflect.Map:
		p.key, p.elem = sub(t.Key()), sub(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() && !f.Anonymous || name == "-" {
				continue
			}
			if f.Anonymous && !f.IsExported() { // JSON's promotion rules are better left to JSON
				ok = false
				break
			}
			if name == "" {
				name = f.Name
			}
			p.fields = append(p.fields, planField{name, i, sub(f.Type)})
		}
	default:
		ok = false
	}
	if !ok {
		made[t] = nil
		return nil
	}
	return p
}

func (p *plan) append(b []byte, v reflect.Value) []byte {
	if p.time {
		t, _ := v.Interface().(time.Time)
		data, err := t.MarshalBinary()
		if err != nil { // a zone with a fraction of a minute
			data, _ = t.UTC().MarshalBinary()
		}
		return append(binary.AppendUvarint(append(b, wireText), uint64(len(data))), data...)
	}
	switch p.kind {
	case reflect.Bool:
		n := uint64(0)
		if v.Bool() {
			n = 1
		}
		return binary.AppendUvarint(append(b, wireWhole), n)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return binary.AppendVarint(append(b, wireWhole), v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return binary.AppendUvarint(append(b, wireWhole), v.Uint())
	case reflect.Float32, reflect.Float64:
		return binary.LittleEndian.AppendUint64(append(b, wireFixed), math.Float64bits(v.Float()))
	case reflect.String:
		return wire.AppendString(append(b, wireText), v.String())
	case reflect.Pointer:
		if v.IsNil() {
			return p.parts(b, 0, func(b []byte) []byte { return b })
		}
		return p.parts(b, 1, func(b []byte) []byte { return p.elem.append(b, v.Elem()) })
	case reflect.Slice, reflect.Array:
		if p.bytes {
			d := v.Bytes()
			return append(binary.AppendUvarint(append(b, wireText), uint64(len(d))), d...)
		}
		return p.parts(b, v.Len(), func(b []byte) []byte {
			for i := range v.Len() {
				b = p.elem.append(b, v.Index(i))
			}
			return b
		})
	case reflect.Map:
		return p.parts(b, v.Len(), func(b []byte) []byte {
			for it := v.MapRange(); it.Next(); {
				b = p.elem.append(p.key.append(b, it.Key()), it.Value())
			}
			return b
		})
	default:
		n := 0
		for _, f := range p.fields {
			if !v.Field(f.index).IsZero() {
				n++
			}
		}
		return p.parts(b, n, func(b []byte) []byte {
			for _, f := range p.fields {
				if x := v.Field(f.index); !x.IsZero() {
					b = f.plan.append(wire.AppendString(b, f.name), x)
				}
			}
			return b
		})
	}
}

func (p *plan) parts(b []byte, n int, write func([]byte) []byte) []byte {
	b = append(b, wireParts, 0, 0, 0, 0)
	start := len(b)
	b = write(binary.AppendUvarint(b, uint64(n)))
	binary.LittleEndian.PutUint32(b[start-4:], uint32(len(b)-start))
	return b
}

// parts takes bytes apart.
type parts struct{ wire.Reader }

// value reads one value of any type: its wire type and, of text and parts, the bytes; of numbers, n.
func (w *parts) value() (t byte, n uint64, body []byte) {
	h := w.Take(1)
	if h == nil {
		return 0, 0, nil
	}
	switch t = h[0]; t {
	case wireWhole:
		n = w.Uvarint()
	case wireFixed:
		n = w.Uint64()
	case wireText:
		body = w.Bytes()
	case wireParts:
		if d := w.Take(4); d != nil {
			body = w.Take(uint64(binary.LittleEndian.Uint32(d)))
		}
	default:
		w.Bad, w.B = true, nil
	}
	return t, n, body
}

// read sets v, which is addressable and zero, from the next value.
func (p *plan) read(w *parts, v reflect.Value) {
	t, n, body := w.value()
	if w.Bad {
		return
	}
	switch {
	case p.time:
		var at time.Time
		if t == wireText && at.UnmarshalBinary(body) == nil {
			v.Set(reflect.ValueOf(at))
		}
	case t == wireWhole:
		switch p.kind {
		case reflect.Bool:
			v.SetBool(n != 0)
		case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
			if s := int64(n>>1) ^ -int64(n&1); !v.OverflowInt(s) {
				v.SetInt(s)
			}
		case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			if !v.OverflowUint(n) {
				v.SetUint(n)
			}
		}
	case t == wireFixed:
		if p.kind == reflect.Float32 || p.kind == reflect.Float64 {
			v.SetFloat(math.Float64frombits(n))
		}
	case t == wireText:
		if p.kind == reflect.String {
			// shares the record's memory, which nobody modifies
			v.SetString(unsafe.String(unsafe.SliceData(body), len(body)))
		} else if p.bytes {
			v.SetBytes(append([]byte{}, body...))
		}
	default:
		in := parts{wire.Reader{B: body}}
		p.readParts(&in, v)
		w.Bad = w.Bad || in.Bad
	}
}

func (p *plan) readParts(w *parts, v reflect.Value) {
	n := w.Uvarint()
	if n > uint64(len(w.B)) { // every part has a byte at least
		w.Bad = true
		return
	}
	switch p.kind {
	case reflect.Pointer:
		if n == 1 {
			v.Set(reflect.New(v.Type().Elem()))
			p.elem.read(w, v.Elem())
		}
	case reflect.Slice:
		if p.bytes {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), int(n), int(n)))
		for i := range int(n) {
			p.elem.read(w, v.Index(i))
		}
	case reflect.Array:
		for i := range min(int(n), v.Len()) {
			p.elem.read(w, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMapWithSize(v.Type(), int(n)))
		for range n {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			p.key.read(w, k)
			p.elem.read(w, e)
			if w.Bad {
				return
			}
			if k.Comparable() {
				v.SetMapIndex(k, e)
			}
		}
	case reflect.Struct:
		next := 0 // fields usually come in order
		for range n {
			name := w.Bytes()
			if w.Bad {
				return
			}
			if f := p.field(name, &next); f != nil {
				f.plan.read(w, v.Field(f.index))
			} else {
				w.value()
			}
		}
	}
}

func (p *plan) field(name []byte, next *int) *planField {
	for i := range p.fields {
		f := &p.fields[(*next+i)%len(p.fields)]
		if f.name == string(name) {
			*next += i + 1
			return f
		}
	}
	return nil
}

// codec writes T: by plan, or as JSON.
type codec[T any] struct{ plan *plan }

func newCodec[T any](asJSON bool) codec[T] {
	if asJSON {
		return codec[T]{}
	}
	return codec[T]{planOf(reflect.TypeFor[T](), map[reflect.Type]*plan{})}
}

func (c codec[T]) id() byte {
	if c.plan == nil {
		return codecJSON
	}
	return codecCompact
}

func (c codec[T]) append(b []byte, data *T) ([]byte, error) {
	if c.plan == nil {
		body, err := json.Marshal(data)
		return append(b, body...), err
	}
	return c.plan.append(b, reflect.ValueOf(data).Elem()), nil
}

// decode reads what either codec wrote.
func (c codec[T]) decode(id byte, b []byte) (data T, err error) {
	if id == codecJSON {
		err = json.Unmarshal(b, &data)
		return data, err
	}
	p := c.plan
	if p == nil { // the program writes JSON now
		if p = planOf(reflect.TypeFor[T](), map[reflect.Type]*plan{}); p == nil {
			return data, errData
		}
	}
	w := parts{wire.Reader{B: b}}
	p.read(&w, reflect.ValueOf(&data).Elem())
	if w.Bad {
		var zero T
		return zero, errData
	}
	return data, nil
}
