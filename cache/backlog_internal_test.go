package cache

import (
	"bytes"
	"testing"
)

// FuzzBackLog: whatever an entry of the journal holds, it is a write or an error, and a write comes back as it was.
func FuzzBackLog(f *testing.F) {
	l := &backLog[string, []byte]{key: text{}, value: Bytes{}}
	f.Add([]byte("\x00\x01kvalue"))
	f.Add([]byte("\x01\x03key"))
	f.Add([]byte("\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, v, deleted, err := l.decode(b)
		if err != nil {
			return
		}
		again, err := l.encode(k, v, deleted)
		if err != nil {
			t.Fatal(err)
		}
		k2, v2, deleted2, err := l.decode(again)
		if err != nil || k2 != k || !bytes.Equal(v2, v) || deleted2 != deleted {
			t.Fatal(k, k2, v, v2, err)
		}
	})
}

type text struct{}

func (text) Encode(s string) ([]byte, error) { return []byte(s), nil }
func (text) Decode(b []byte) (string, error) { return string(b), nil }

// BenchmarkCount is what the exact statistics cost a hit.
func BenchmarkCount(b *testing.B) {
	c, err := New(Options[int, int]{})
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.counts[stripe()].hits.Add(1)
		}
	})
}
