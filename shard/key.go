package shard

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/tierkit/tierkit/internal/placement"
)

// Slot is the unit of placement: keys hash to slots, slots are owned by shards. Slots below Map.Slots() are the hashed
// ones, those from there on are pinned keys.
type Slot int32

// ID names a shard.
type ID string

// Key is what rows are sharded by. Making one does not allocate, except for Composite.
type Key struct {
	text string // of String and Composite keys
	num  uint64 // of Int keys
	kind keyKind
}

type keyKind uint8

const (
	keyString keyKind = iota
	keyInt
	keyComposite
)

// String is a key of text.
func String(s string) Key { return Key{text: s} }

// Int is an integer key.
func Int(id int64) Key { return Key{num: uint64(id), kind: keyInt} }

// Composite is a key of several columns; the parts' boundaries matter ("ab","c" is not "a","bc"). Parts are strings,
// byte slices, integers and bools; other types are formatted with %v.
func Composite(parts ...any) Key {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case string:
			b = binary.AppendUvarint(append(b, 's'), uint64(len(v)))
			b = append(b, v...)
		case []byte:
			b = binary.AppendUvarint(append(b, 's'), uint64(len(v)))
			b = append(b, v...)
		case int:
			b = binary.AppendVarint(append(b, 'i'), int64(v))
		case int32:
			b = binary.AppendVarint(append(b, 'i'), int64(v))
		case int64:
			b = binary.AppendVarint(append(b, 'i'), v)
		default:
			t := fmt.Sprint(v)
			b = binary.AppendUvarint(append(b, 's'), uint64(len(t)))
			b = append(b, t...)
		}
	}
	return Key{text: string(b), kind: keyComposite}
}

func (k Key) hash() uint64 {
	if k.kind == keyInt {
		return placement.HashUint64(k.num)
	}
	return placement.HashString(k.text)
}

// pin is the key's name in State.Pins.
func (k Key) pin() string {
	switch k.kind {
	case keyInt:
		return "i" + strconv.FormatInt(int64(k.num), 10)
	case keyComposite:
		return "c" + k.text
	}
	return "s" + k.text
}

// String is how the key is shown to people.
func (k Key) String() string {
	if k.kind == keyInt {
		return strconv.FormatInt(int64(k.num), 10)
	}
	return k.text
}

// parts are the key's columns as text, as Table.By has them.
func (k Key) parts() []string {
	if k.kind != keyComposite {
		return []string{k.String()}
	}
	var out []string
	for b := []byte(k.text); len(b) > 0; {
		tag := b[0]
		b = b[1:]
		if tag == 'i' {
			v, n := binary.Varint(b)
			out, b = append(out, strconv.FormatInt(v, 10)), b[n:]
			continue
		}
		size, n := binary.Uvarint(b)
		out, b = append(out, string(b[n:n+int(size)])), b[n+int(size):]
	}
	return out
}

// Parts are the n keys that a key is split into when one database cannot bear its writes: key#0 to key#n-1, each with a
// slot, and so mostly a shard, of its own. Write to Part, which takes one of them; read them all with DoMany and add
// up. For a counter of a celebrity's likes that is n times the writes. For reads write a copy under each part, and read
// Part. n below 2: the key itself.
func Parts(k Key, n int) []Key {
	if n < 2 {
		return []Key{k}
	}
	out := make([]Key, n)
	for i := range out {
		out[i] = part(k, i)
	}
	return out
}

// Part is one of the key's parts, at random.
func Part(k Key, n int) Key {
	if n < 2 {
		return k
	}
	return part(k, rand.IntN(n))
}

func part(k Key, i int) Key { return String(k.String() + "#" + strconv.Itoa(i)) }
