package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http/httputil"
	"testing"
)

// FuzzChunks: what our reader takes, net/http's takes too, with the same data.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"0\r\n", "5\r\nhello\r\n0\r\n", "5;a=b\r\nhello\r\nA \r\n0123456789\r\n00\r\n",
		"5\nhello\r\n0\r\n", "fffffffffffffff\r\nx", "5\r\nhelloX\n0\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, err := io.ReadAll(&ChunkReader{br: bufio.NewReader(bytes.NewReader(in))})
		if err != nil {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bufio.NewReader(bytes.NewReader(in))))
		if err != nil || !bytes.Equal(ours, theirs) {
			t.Fatalf("%q: ours %q, net/http %q %v", in, ours, theirs, err)
		}
	})
}
