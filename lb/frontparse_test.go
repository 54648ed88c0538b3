package lb

import (
	"bufio"
	"bytes"
	"flag"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/http1"
)

var frontHeads = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /a/b%20c?x=1&y=%zz HTTP/1.1\r\nHost: a.example:80\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
	"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
	"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n",
	"GET / HTTP/1.1\nHost: a\n\nGET / HTTP/1.1\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nUpgrade: x\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: h\r\nForwarded: for=a\r\nX-Real-IP: 1.1.1.1\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET //b/c HTTP/1.1\r\nHost: a\r\nProxy-Connection: x\r\nKeep-Alive: 1\r\nIdempotency-Key: 7\r\n\r\n",
	"GET /\" HTTP/1.1\r\nHost: a\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: \r\nA:\r\nB: \tx\t \r\n\r\n",
}

// FuzzRequestHead compares the front's parser with net/http's: what it forwards by itself net/http takes too, and means
// the same by it; and what it writes for the backend net/http reads as the same request.
func FuzzRequestHead(f *testing.F) {
	for _, s := range frontHeads {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(agree)
}

// agree is what must hold for any bytes.
func agree(t *testing.T, in []byte, trusted bool) {
	end, bad := http1.EndOfHead(in, 0)
	for cut := 1; cut < len(in) && !bad; cut += 7 { // wherever a read ends, the head does not
		if e, b := http1.EndOfHead(in[:cut], 0); b {
			bad = true
		} else if e > 0 && e != end {
			t.Fatalf("head of %q ends at %d, or at %d", in, end, e)
		}
	}
	if bad || end == 0 {
		return
	}
	var h http1.RequestHead
	if h.Parse(in[:end], trusted) != http1.Plain {
		return
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
	if err != nil {
		t.Fatalf("we take what net/http refuses (%v): %q", err, in)
	}
	method, line := string(in[h.Method.From:h.Method.To]), string(in[:h.Line])
	if r.Method != method || line != method+" "+r.RequestURI+" HTTP/1.1\r\n" ||
		r.Host != string(in[h.Host.From:h.Host.To]) {
		t.Fatalf("%q %q, net/http: %s %q %q", line, in[h.Host.From:h.Host.To], r.Method, r.RequestURI, r.Host)
	}
	if len(r.TransferEncoding) > 0 || r.ContentLength != h.Length {
		t.Fatalf("length %d, net/http: %d %v: %q", h.Length, r.ContentLength, r.TransferEncoding, in)
	}
	if r.Close != h.Close {
		t.Fatalf("close %v, net/http: %v: %q", h.Close, r.Close, in)
	}
	if want := idempotent(r); want != h.Idempotent {
		t.Fatalf("idempotent %v, by the handler's rule %v: %q", h.Idempotent, want, in)
	}
	// What goes to the backend is what the handler would send.
	peer := netip.MustParseAddr("192.0.2.1")
	sent, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(h.Append(nil, in[:end], peer, trusted))))
	if err != nil {
		t.Fatalf("we write what net/http refuses (%v): %q", err, in)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	x := &exchange{r: r, trusted: trusted, body: bodyNone}
	if h.Length > 0 {
		x.body = bodyKept
	}
	want, err := x.appendHead(nil)
	if err != nil {
		t.Fatalf("the handler refuses (%v): %q", err, in)
	}
	handled, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(want)))
	if err != nil {
		t.Fatalf("%v: %q", err, want)
	}
	if sent.Method != handled.Method || sent.RequestURI != handled.RequestURI || sent.Host != handled.Host ||
		sent.ContentLength != handled.ContentLength ||
		!reflect.DeepEqual(trimmedFields(sent.Header), trimmedFields(handled.Header)) {
		t.Fatalf("%q\nfront:\n%q\nhandler:\n%q", in, h.Append(nil, in[:end], peer, trusted), want)
	}
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

var frontTrials = flag.Int("front.trials", 20_000, "heads made up by TestRequestHeadAgreesWithNetHTTP")

// TestRequestHeadAgreesWithNetHTTP makes up heads of the pieces that matter, in and out of their places: blind mutation
// finds few heads that a parser gets far with.
func TestRequestHeadAgreesWithNetHTTP(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	one := func(of ...string) string { // mostly the first, so that one thing is wrong at a time
		if r.IntN(8) > 0 {
			return of[0]
		}
		return of[r.IntN(len(of))]
	}
	names := []string{"Host", "host", "Content-Length", "content-length", "Transfer-Encoding", "TRANSFER-ENCODING",
		"Connection", "Upgrade", "Expect", "TE", "Te", "Trailer",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "Forwarded", "X-Real-IP",
		"Keep-Alive", "Proxy-Connection", "Proxy-Authorization",
		"Proxy-Authenticate", "HTTP2-Settings", "Idempotency-Key", "X-Idempotency-Key", "X-A", "A", "x_y",
		"Content_Length", "Content-Length ", " Content-Length", "", "X\x00", "É",
		"X-Forwarded-", "X-Forwarded-X", "Pragma", "Cache-Control", "Authorization", "Cookie"}
	values := []string{"a", "b", "a.example", "", "5", "05", "+5", "-5", "5, 5", "0x5", "5 ", "\t5",
		"9999999999999999999", "chunked", "Chunked", "identity", "chunked, chunked", "gzip, chunked", "close",
		"keep-alive", "Close", "close, X-A", "Upgrade", "X-A", "trailers", "100-continue", "a.example", "a.example:80",
		"[::1]:80", "a b", "a/b", "a,b", "192.0.2.7", "\x00", "\x7f", "é", "a\rb", "a\nb", "\x0b"}
	ours := 0
	for range *frontTrials {
		var b strings.Builder
		b.WriteString(one("GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "get", "CONNECT", "G T", "", "X-",
			"GET\t"))
		b.WriteString(one(" ", " ", " ", " ", "  ", "\t", ""))
		for range 1 + r.IntN(3) {
			b.WriteString(one("/", "/a", "/a", "?b=c", "%20", "%2F", "%zz", "%", "*", "http://h/", "//", "#f", ";", ":",
				"@", "\"", "é", "\x01", "..", "[", "^", "|", "\\", "{", "' '"))
		}
		b.WriteString(one(" HTTP/1.1", " HTTP/1.1", " HTTP/1.1", " HTTP/1.1", " HTTP/1.0", " HTTP/2.0", " HTTP/1.2",
			" http/1.1", "", " HTTP/1.1 "))
		b.WriteString(one("\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n"))
		if r.IntN(4) > 0 {
			b.WriteString("Host: a\r\n")
		}
		for range r.IntN(4) {
			b.WriteString(names[r.IntN(len(names))])
			b.WriteString(one(": ", ": ", ": ", ":", ":\t", " : ", "", ";"))
			b.WriteString(values[r.IntN(len(values))])
			b.WriteString(one("\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", " \r\n", "\n", "\r\n ", "\r"))
		}
		b.WriteString("\r\n")
		b.WriteString(one("", "hello", "5\r\nhello\r\n0\r\n\r\n", "\r\n\r\n"))
		in := []byte(b.String())
		if end, bad := http1.EndOfHead(in, 0); !bad && end > 0 &&
			new(http1.RequestHead).Parse(in[:end], false) == http1.Plain {
			ours++
		}
		agree(t, in, r.IntN(2) == 0)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	require.Greater(t, ours, *frontTrials/100, "too few heads are taken for the test to say much")
}

func TestRequestVerdicts(t *testing.T) {
	for i, want := range []http1.Verdict{http1.Plain, http1.Unusual, http1.Plain, http1.Unusual, http1.Bad, http1.Bad,
		http1.Bad, http1.Bad, http1.Bad, http1.Unusual,
		http1.Unusual, http1.Unusual, http1.Plain, http1.Unusual, http1.Bad, http1.Plain} {
		in := []byte(frontHeads[i])
		end, bad := http1.EndOfHead(in, 0)
		got := http1.Bad
		if !bad {
			var h http1.RequestHead
			got = h.Parse(in[:end], false)
		}
		if i == 1 { // an escape that is none, in the query only
			want = http1.Plain
		}
		require.Equal(t, want, got, frontHeads[i])
	}
}
