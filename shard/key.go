package shard

// Slot is the unit of placement: keys hash to slots, slots are owned by shards. Slots below Map.Slots() are the hashed ones,
// those from there on are pinned keys.
type Slot int32

// ID names a shard.
type ID string

// Key is what rows are sharded by.
type Key struct {
	hash   uint64
	id     uint64 // of integer keys, for Modulo
	pinKey string
}

// String is a key of text.
func String(s string) Key { return Key{} }

// Int is an integer key.
func Int(id int64) Key { return Key{} }

// Composite is a key of several columns; the parts' boundaries matter ("ab","c" is not "a","bc"). Parts are strings, byte
// slices, integers and bools; other types are formatted with %v.
func Composite(parts ...any) Key { return Key{} }
