package http1

import (
	"bufio"
	"bytes"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRewrite compares the rewriting of answers with the parser of their fields.
func FuzzRewrite(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nA: b\r\n\r\n",
		"HTTP/1.1 204\r\nDate: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nConnection: X-A, close\r\nX-A: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\nUpgrade: a\r\nKeep-Alive: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		i := bytes.Index(in, []byte("\r\n\r\n"))
		if i < 0 {
			return
		}
		head := in[:i+2]
		_, old, err := Status(head)
		if err != nil {
			return
		}
		var a AnswerHead
		out, err := a.Rewrite(nil, head, old, nil)
		if err != nil {
			return
		}
		h := http.Header{}
		fr, err := ParseFields(head, old, h)
		if err != nil {
			t.Fatalf("we take what the handler refuses (%v): %q", err, in)
		}
		if a.Length != fr.Length || a.Close != fr.Close {
			t.Fatalf("length %d close %v, the handler: %d %v: %q", a.Length, a.Close, fr.Length, fr.Close, in)
		}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(append(out, "\r\n"...))),
			&http.Request{Method: "HEAD"})
		if err != nil {
			t.Fatalf("we write what net/http refuses (%v): %q", err, out)
		}
		delete(h, "Content-Length")
		delete(h, "Trailer") // ReadResponse moves it
		delete(res.Header, "Trailer")
		got := trimmedFields(res.Header)
		delete(got, "Connection") // none is written; ReadResponse sees its absence
		if want := trimmedFields(h); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %v, the handler: %v", in, got, want)
		}
	})
}

func trimmedFields(h http.Header) http.Header {
	out := http.Header{}
	for k, vs := range h {
		for _, v := range vs {
			out[k] = append(out[k], strings.Trim(v, " \t"))
		}
		slices.Sort(out[k])
	}
	return out
}

func TestHeadsDoNotAllocate(t *testing.T) {
	peer := netip.MustParseAddr("192.0.2.1")
	raw := []byte("GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nAccept: */*\r\nConnection: keep-alive\r\nX-Forwarded-For: c\r\n\r\n")
	head := []byte("HTTP/1.1 200 OK\r\nServer: a\r\nDate: b\r\nContent-Type: c\r\nContent-Length: 100\r\nConnection: keep-alive\r\n")
	var h RequestHead
	var a AnswerHead
	var sent, answer []byte
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if h.Parse(raw, false) != Plain {
			t.Fatal("not ours")
		}
		sent = h.Append(sent[:0], raw, peer, false)
		var err error
		if answer, err = a.Rewrite(answer[:0], head, false, nil); err != nil {
			t.Fatal(err)
		}
	}))
}
