package expo

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// The wire types of protobuf that metrics.proto uses.
const (
	varint  = 0
	fixed64 = 1
	length  = 2
)

// varintSize returns how many bytes n takes.
func varintSize(n uint64) int { return (bits.Len64(n|1) + 6) / 7 }

// bytesSize returns how many bytes a field of n bytes takes with its tag (a number below 16) and length.
func bytesSize(n int) int { return 1 + varintSize(uint64(n)) + n }

func appendBytes[T string | []byte](b []byte, field int, v T) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(field<<3|length)), uint64(len(v)))
	return append(b, v...)
}

func appendVarint(b []byte, field int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(field<<3|varint)), v)
}

func appendZigzag(b []byte, field int, v int64) []byte {
	return appendVarint(b, field, uint64(v)<<1^uint64(v>>63))
}

func appendDouble(b []byte, field int, v float64) []byte {
	return binary.LittleEndian.AppendUint64(append(b, byte(field<<3|fixed64)), math.Float64bits(v))
}

// appendProtoLabel adds a LabelPair.
func appendProtoLabel(b []byte, field int, name, value string) []byte {
	value = validUTF8(value)
	b = append(b, byte(field<<3|length))
	b = binary.AppendUvarint(b, uint64(bytesSize(len(name))+bytesSize(len(value))))
	return appendBytes(appendBytes(b, 1, name), 2, value)
}

// valueField returns the field of Metric that holds a value of the kind; all of these messages hold it in field 1.
func (k Kind) valueField() int {
	switch k {
	case Counter:
		return 3
	case Untyped:
		return 5
	}
	return 2
}

// protoMetric begins a Metric of the family, whose value has size bytes, with the labels.
func (f *Family) protoMetric(labels, extra string, scratch []byte, size int) {
	constant := f.page.constant.proto
	b := binary.AppendUvarint(append(f.buf, 4<<3|length),
		uint64(len(constant)+len(labels)+len(extra)+len(scratch)+size))
	f.buf = append(append(append(append(b, constant...), labels...), extra...), scratch...)
}

func (f *Family) protoSample(labels, extra string, scratch []byte, v float64) {
	f.protoMetric(labels, extra, scratch, 11)
	f.buf = appendDouble(append(f.buf, byte(f.series.Kind.valueField()<<3|length), 9), 1, v)
}

// protoMessage adds a Metric whose value is the message m.
func (f *Family) protoMessage(l Labels, field int, m []byte) {
	f.protoMetric(l.proto, "", nil, bytesSize(len(m)))
	f.buf = appendBytes(f.buf, field, m)
}
