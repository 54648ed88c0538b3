package http1

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// FuzzHead compares our response parser with net/http's: what we take it must take too, with the same fields and
// framing.
func FuzzHead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nA: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		client, server := net.Pipe()
		defer client.Close()
		go func() { server.Write(in); server.Close() }()
		c := newConn(client)
		head, err := c.Head()
		if err != nil {
			return
		}
		status, old, err := Status(head)
		if err != nil {
			return
		}
		h := http.Header{}
		fr, err := ParseFields(head, old, h)
		if err != nil {
			return
		}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("we take what net/http refuses (%v): %q", err, in)
		}
		if res.StatusCode != status {
			t.Fatalf("status %d, net/http says %d", status, res.StatusCode)
		}
		for k, v := range h {
			theirs := res.Header[k]
			if k == "Trailer" || k == "Content-Length" {
				continue
			}
			for i := range theirs {
				theirs[i] = strings.Trim(theirs[i], " \t")
			}
			if !reflect.DeepEqual([]string(v), theirs) {
				t.Fatalf("%s: %q, net/http says %q", k, v, theirs)
			}
		}
		if status >= 200 && status != 204 && status != 304 && fr.Length >= 0 && res.ContentLength != fr.Length {
			t.Fatalf("length %d, net/http says %d", fr.Length, res.ContentLength)
		}
	})
}
