package proxytest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Origin is a server that plays the script of each case byte by byte, chosen by the request's path.
type Origin struct {
	l       net.Listener
	wg      sync.WaitGroup
	mu      sync.Mutex // guards what follows
	scripts map[string]func(*Exchange) bool
	conns   map[net.Conn]struct{}
	closed  bool
}

// NewOrigin listens on a free port of loopback.
func NewOrigin() (*Origin, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &Origin{l: l, scripts: map[string]func(*Exchange) bool{}, conns: map[net.Conn]struct{}{}}
	o.wg.Go(o.accept)
	return o, nil
}

// Addr is where it listens.
func (o *Origin) Addr() string { return o.l.Addr().String() }

// Close ends all connections.
func (o *Origin) Close() {
	o.l.Close()
	o.mu.Lock()
	o.closed = true
	for c := range o.conns {
		c.Close()
	}
	o.mu.Unlock()
	o.wg.Wait()
}

func (o *Origin) on(path string, script func(*Exchange) bool) {
	o.mu.Lock()
	o.scripts[path] = script
	o.mu.Unlock()
}

func (o *Origin) forget(path string) {
	o.mu.Lock()
	delete(o.scripts, path)
	o.mu.Unlock()
}

func (o *Origin) accept() {
	for {
		c, err := o.l.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		if o.closed {
			c.Close()
		}
		o.conns[c] = struct{}{}
		o.mu.Unlock()
		o.wg.Go(func() {
			o.serve(c)
			c.Close()
			o.mu.Lock()
			delete(o.conns, c)
			o.mu.Unlock()
		})
	}
}

func (o *Origin) serve(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		head, err := readHead(br)
		if err != nil {
			return
		}
		_, rest, _ := strings.Cut(head, " ")
		target, _, _ := strings.Cut(rest, " ")
		path, _, _ := strings.Cut(target, "?")
		o.mu.Lock()
		script := o.scripts[path]
		o.mu.Unlock()
		if script == nil {
			io.WriteString(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		if !script(&Exchange{Head: head, Target: target, c: c, br: br}) {
			return
		}
	}
}

func readHead(br *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return "", err
		}
		b.WriteString(line)
		if line == "\r\n" {
			return b.String(), nil
		}
	}
}

// Exchange is a request at the origin. The script answers it and says whether the connection stays.
type Exchange struct {
	Head   string // as it came, with its empty line
	Target string
	c      net.Conn
	br     *bufio.Reader
}

// values of all lines of a field.
func (e *Exchange) values(name string) (vs []string) {
	for line := range strings.SplitSeq(e.Head, "\r\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, name) {
			vs = append(vs, strings.TrimSpace(v))
		}
	}
	return vs
}

func (e *Exchange) send(s string) { io.WriteString(e.c, s) }

// ok answers with a short body.
func (e *Exchange) ok(body string) bool {
	e.send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	return true
}

// body reads the request's body to its end; trailer is what follows the last chunk.
func (e *Exchange) body() (body []byte, trailer http.Header, err error) {
	if te := e.values("Transfer-Encoding"); len(te) > 0 {
		if body, err = io.ReadAll(httputil.NewChunkedReader(e.br)); err != nil {
			return body, nil, err
		}
		h, err := textproto.NewReader(e.br).ReadMIMEHeader()
		return body, http.Header(h), err
	}
	cl := e.values("Content-Length")
	if len(cl) == 0 {
		return nil, nil, nil
	}
	n, err := strconv.Atoi(cl[0])
	if err != nil {
		return nil, nil, err
	}
	body = make([]byte, n)
	got, err := io.ReadFull(e.br, body)
	return body[:got], nil, err
}

// gone waits until the other side has closed the connection.
func (e *Exchange) gone(wait time.Duration) error {
	e.c.SetReadDeadline(time.Now().Add(wait))
	defer e.c.SetReadDeadline(time.Time{})
	_, err := e.br.ReadByte()
	var t net.Error
	if err == nil {
		return errors.New("bytes came instead of an end")
	}
	if errors.As(err, &t) && t.Timeout() {
		return errors.New("the connection to the origin stayed open")
	}
	return nil
}
