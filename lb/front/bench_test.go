package front_test

import (
	"bufio"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/lbtest"
	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/front"
)

// BenchmarkFront is a whole request through a front, its client and its backend.
func BenchmarkFront(b *testing.B) {
	e := lbtest.Backend(b, func(_ int, c net.Conn, br *bufio.Reader) {
		answer := []byte("HTTP/1.1 200 OK\r\nServer: x\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello")
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}
	})
	_, addr := serve(b, lbtest.New(b, []lb.Endpoint{e}, lb.Options{}), front.Options{})
	c, err := net.Dial("tcp", addr)
	require.NoError(b, err)
	defer c.Close()
	req := []byte("GET /path?q=1 HTTP/1.1\r\nHost: site.example\r\nUser-Agent: a\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 4<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(req); err != nil {
			b.Fatal(err)
		}
		for n := 0; ; {
			m, err := c.Read(buf[n:])
			if err != nil {
				b.Fatal(err)
			}
			if n += m; string(buf[n-5:n]) == "hello" {
				break
			}
		}
	}
}
