package cache

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Compressed is a [Codec] that compresses what another one makes of large values (DEFLATE, RFC 1951), for the second
// tier or a journal. One byte before the data says whether it did: small values, and those that would not become
// smaller, stay as they are. The zero value of all but Codec is good.
type Compressed[V any] struct {
	// Codec makes bytes of values. Default JSON.
	Codec Codec[V]
	// MinBytes is the least size that is worth compressing. Default 1 KiB, negative: everything.
	MinBytes int
	// MaxBytes bounds a value once it is decompressed; a larger one is an error of Encode as of Decode, so that what
	// others have written cannot fill the memory. Default 64 MiB.
	MaxBytes int
}

// ErrDecompress: bytes that are not what Compressed.Encode made, or too large.
var ErrDecompress = errors.New("cache: decompress")

const (
	plainBytes = iota
	deflated
)

func (c Compressed[V]) inner() Codec[V] {
	if c.Codec == nil {
		return JSON[V]{}
	}
	return c.Codec
}

func (c Compressed[V]) most() int {
	if c.MaxBytes <= 0 {
		return 64 << 20
	}
	return c.MaxBytes
}

// deflaters hold about 600 KiB each.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // only for an unknown level
	}
	return w
}}

var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// Encode implements [Codec].
func (c Compressed[V]) Encode(v V) ([]byte, error) {
	data, err := c.inner().Encode(v)
	if err != nil {
		return nil, err
	}
	if len(data) > c.most() {
		return nil, fmt.Errorf("cache: a value has %d bytes, Compressed.MaxBytes is %d", len(data), c.most())
	}
	least := c.MinBytes
	if least == 0 {
		least = 1 << 10
	}
	if len(data) >= least {
		var buf bytes.Buffer
		buf.WriteByte(deflated)
		w := deflaters.Get().(*flate.Writer)
		defer deflaters.Put(w)
		w.Reset(&buf)
		if _, err := w.Write(data); err != nil {
			return nil, fmt.Errorf("cache: compress: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("cache: compress: %w", err)
		}
		if buf.Len() <= len(data) {
			return buf.Bytes(), nil
		}
	}
	return append([]byte{plainBytes}, data...), nil
}

// Decode implements [Codec]. Errors: [ErrDecompress], the inner codec's.
func (c Compressed[V]) Decode(b []byte) (v V, err error) {
	if len(b) == 0 || b[0] > deflated {
		return v, fmt.Errorf("%w: not written by Compressed", ErrDecompress)
	}
	data := b[1:]
	if b[0] == deflated {
		r := inflaters.Get().(io.ReadCloser)
		defer inflaters.Put(r)
		if err := r.(flate.Resetter).Reset(bytes.NewReader(data), nil); err != nil {
			return v, fmt.Errorf("%w: %w", ErrDecompress, err)
		}
		if data, err = io.ReadAll(io.LimitReader(r, int64(c.most())+1)); err != nil {
			return v, fmt.Errorf("%w: %w", ErrDecompress, err)
		}
	}
	if len(data) > c.most() {
		return v, fmt.Errorf("%w: more than %d bytes", ErrDecompress, c.most())
	}
	return c.inner().Decode(data)
}
