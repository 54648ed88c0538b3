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

// FuzzFront compares the front's parser with net/http's: what it forwards by itself net/http takes too, and means the
// same by it; and what it writes for the backend net/http reads as the same request.
func FuzzFront(f *testing.F) {
	for _, s := range frontHeads {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(agree)
}

// agree is what must hold for any bytes.
func agree(t *testing.T, in []byte, trusted bool) {
	end, bad := endOfHead(in, 0)
	for cut := 1; cut < len(in) && !bad; cut += 7 { // wherever a read ends, the head does not
		if e, b := endOfHead(in[:cut], 0); b {
			bad = true
		} else if e > 0 && e != end {
			t.Fatalf("head of %q ends at %d, or at %d", in, end, e)
		}
	}
	if bad || end == 0 {
		return
	}
	var h requestHead
	if h.parse(in[:end], trusted) != verdictOurs {
		return
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
	if err != nil {
		t.Fatalf("we take what net/http refuses (%v): %q", err, in)
	}
	method, line := string(in[h.method.from:h.method.to]), string(in[:h.line])
	if r.Method != method || line != method+" "+r.RequestURI+" HTTP/1.1\r\n" ||
		r.Host != string(in[h.host.from:h.host.to]) {
		t.Fatalf("%q %q, net/http: %s %q %q", line, in[h.host.from:h.host.to], r.Method, r.RequestURI, r.Host)
	}
	if len(r.TransferEncoding) > 0 || r.ContentLength != h.length {
		t.Fatalf("length %d, net/http: %d %v: %q", h.length, r.ContentLength, r.TransferEncoding, in)
	}
	if r.Close != h.close {
		t.Fatalf("close %v, net/http: %v: %q", h.close, r.Close, in)
	}
	if want := idempotent(r); want != h.again {
		t.Fatalf("idempotent %v, by the handler's rule %v: %q", h.again, want, in)
	}
	// What goes to the backend is what the handler would send.
	peer := netip.MustParseAddr("192.0.2.1")
	c := &frontConn{head: h, raw1: in[:end], peer: peer, trusted: trusted}
	sent, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.appendHead(nil))))
	if err != nil {
		t.Fatalf("we write what net/http refuses (%v): %q", err, in)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	x := &exchange{r: r, trusted: trusted, body: bodyNone}
	if h.length > 0 {
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
		t.Fatalf("%q\nfront:\n%q\nhandler:\n%q", in, c.appendHead(nil), want)
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

var frontTrials = flag.Int("front.trials", 20_000, "heads made up by TestFrontAgreesWithNetHTTP")

// TestFrontAgreesWithNetHTTP makes up heads of the pieces that matter, in and out of their places: blind mutation finds
// few heads that a parser gets far with.
func TestFrontAgreesWithNetHTTP(t *testing.T) {
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
		if end, bad := endOfHead(in, 0); !bad && end > 0 && new(requestHead).parse(in[:end], false) == verdictOurs {
			ours++
		}
		agree(t, in, r.IntN(2) == 0)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	require.Greater(t, ours, *frontTrials/100, "too few heads are taken for the test to say much")
}

// FuzzAnswerHead compares the front's rewriting of answers with the handler's parser.
func FuzzAnswerHead(f *testing.F) {
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
		status, old, err := statusOf(head)
		if err != nil {
			return
		}
		var a answerHead
		out, err := a.rewrite(nil, head, status, old, nil)
		if err != nil {
			return
		}
		h := http.Header{}
		fr, err := fields(head, old, h)
		if err != nil {
			t.Fatalf("we take what the handler refuses (%v): %q", err, in)
		}
		if a.length != fr.length || a.close != fr.close {
			t.Fatalf("length %d close %v, the handler: %d %v: %q", a.length, a.close, fr.length, fr.close, in)
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

func TestFrontVerdicts(t *testing.T) {
	for i, want := range []verdict{verdictOurs, verdictPassed, verdictOurs, verdictPassed, verdictBad, verdictBad,
		verdictBad, verdictBad, verdictBad, verdictPassed,
		verdictPassed, verdictPassed, verdictOurs, verdictPassed, verdictBad, verdictOurs} {
		in := []byte(frontHeads[i])
		end, bad := endOfHead(in, 0)
		got := verdictBad
		if !bad {
			var h requestHead
			got = h.parse(in[:end], false)
		}
		if i == 1 { // an escape that is none, in the query only
			want = verdictOurs
		}
		require.Equal(t, want, got, frontHeads[i])
	}
}
