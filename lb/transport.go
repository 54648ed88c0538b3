package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/httpfield"
	"github.com/tierkit/tierkit/internal/socket"
)

// transports speak what the balancer's own pool does not: HTTP/2, with TLS or without, and HTTP/1.1 over TLS.
type transports struct {
	secure *http.Transport // "https"; HTTP/2 when the backend offers it
	clear2 *http.Transport // "h2c"
}

func newTransports(o *Options) *transports {
	base := func() *http.Transport {
		t := &http.Transport{
			DialContext:           o.Dial,
			DisableCompression:    true, // bodies pass as they are
			MaxIdleConnsPerHost:   max(o.MaxIdle, 1),
			DisableKeepAlives:     o.MaxIdle == 0,
			IdleConnTimeout:       o.Timeouts.KeepIdle,
			ResponseHeaderTimeout: o.Timeouts.Header,
			TLSHandshakeTimeout:   o.Timeouts.Dial,
			ExpectContinueTimeout: o.Timeouts.Expect,
			Protocols:             new(http.Protocols),
		}
		if o.TLS != nil {
			t.TLSClientConfig = o.TLS.Clone()
		}
		return t
	}
	t := &transports{secure: base(), clear2: base()}
	t.secure.Protocols.SetHTTP1(true)
	t.secure.Protocols.SetHTTP2(true)
	t.clear2.Protocols.SetUnencryptedHTTP2(true)
	return t
}

func (t *transports) close() {
	t.secure.CloseIdleConnections()
	t.clear2.CloseIdleConnections()
}

// unsentError is whether err proves that the request was not sent: no connection came about.
func unsentError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// transport makes one attempt through an http.Transport.
func (x *exchange) transport(be *Backend) (out http1.Outcome) {
	start := time.Now()
	ep := be.ep.Load()
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	w := x.w
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusContinue || code == http.StatusSwitchingProtocols {
				return nil
			}
			own := w.Header()
			saved := own.Clone()
			clear(own)
			for k, v := range h {
				if http1.ForwardsResponse(k) && !named(h["Connection"], k) {
					own[k] = v
				}
			}
			w.WriteHeader(code)
			clear(own)
			for k, v := range saved {
				own[k] = v
			}
			return nil
		},
	})
	req := x.r.WithContext(ctx)
	u := *x.r.URL
	u.Scheme, u.Host = "https", ep.Addr
	rt := x.b.fallback.secure
	if ep.Scheme == "h2c" {
		u.Scheme, rt = "http", x.b.fallback.clear2
	}
	req.URL, req.RequestURI, req.Close = &u, "", false
	req.Header = x.outgoing()
	var body *countedBody
	switch x.body {
	case bodyNone:
		req.Body, req.ContentLength = nil, 0
	case bodyKept:
		kept := x.kept
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(kept))), nil }
		req.Body, _ = req.GetBody()
	default:
		http.NewResponseController(w).EnableFullDuplex()
		body = &countedBody{ReadCloser: x.r.Body}
		req.Body = body
	}
	res, err := rt.RoundTrip(req)
	out.Latency = time.Since(start)
	if body != nil && body.read {
		x.begun = true
	}
	if err != nil {
		if body != nil && body.err != nil {
			return http1.Outcome{Err: clientError(body.err), Client: true}
		}
		return http1.Outcome{Err: err, Unsent: unsentError(err), Latency: out.Latency}
	}
	defer res.Body.Close()
	out.Status = res.StatusCode
	if out.Err = x.Discards(res.StatusCode, x.idempotent && x.resendable()); out.Err != nil {
		return out
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		out.Err = x.tunnelBody(res, be, &out)
		return out
	}
	h := w.Header()
	for k, v := range res.Header {
		if http1.ForwardsResponse(k) && !named(res.Header["Connection"], k) {
			h[k] = append(h[k], v...)
		}
	}
	for k := range res.Trailer {
		h.Add("Trailer", k)
	}
	announced := len(res.Trailer)
	if announced > 0 && x.r.ProtoMajor == 1 {
		h.Del("Content-Length") // HTTP/1 has a place for trailers only behind chunks
	}
	x.complete(h, be)
	out.Started = true
	w.WriteHeader(res.StatusCode)
	if err := x.copyBody(res, &out); err != nil {
		out.Err = err
		return out
	}
	if len(res.Trailer) > 0 {
		x.flush()
	}
	for k, vs := range res.Trailer {
		if len(res.Trailer) != announced {
			k = http.TrailerPrefix + k
		}
		for _, v := range vs {
			h.Add(k, v)
		}
	}
	return out
}

func (x *exchange) copyBody(res *http.Response, out *http1.Outcome) error {
	stream := res.ContentLength < 0
	if stream {
		x.flush()
	}
	buf := socket.GetBuffer()
	defer socket.PutBuffer(buf)
	var idle *time.Timer
	if t := x.b.o.Timeouts.Idle; t > 0 {
		idle = time.AfterFunc(t, func() { res.Body.Close() })
		defer idle.Stop()
	}
	for {
		n, err := res.Body.Read(*buf)
		if n > 0 {
			if idle != nil {
				idle.Reset(x.b.o.Timeouts.Idle)
			}
			if _, werr := x.w.Write((*buf)[:n]); werr != nil {
				out.Client = true
				return werr
			}
			if stream {
				x.flush()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// outgoing is the request's header for an http.Transport: what appendHead writes for our own pool.
func (x *exchange) outgoing() http.Header {
	in := x.r.Header
	h := make(http.Header, len(in)+4)
	for k, v := range in {
		if http1.ForwardsRequest(k, x.trusted) && !named(in["Connection"], k) {
			h[k] = v
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(x.appendForwarded(nil)), "\r\n"), "\r\n") {
		if k, v, ok := strings.Cut(line, ": "); ok {
			h[k] = []string{v}
		}
	}
	if named(in["Te"], "trailers") {
		h["Te"] = []string{"trailers"}
	}
	if x.upgrade != "" {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{x.upgrade}
	}
	if x.expect {
		h["Expect"] = []string{"100-continue"}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // else the transport names itself
	}
	return h
}

// tunnelBody is tunnel for a switched connection that an http.Transport holds.
func (x *exchange) tunnelBody(res *http.Response, be *Backend, out *http1.Outcome) error {
	back, ok := res.Body.(io.ReadWriteCloser)
	if !ok || x.upgrade == "" {
		return errors.New("lb: 101 without a request for it")
	}
	if up := res.Header.Get("Upgrade"); up == "" || !httpfield.Lists([]string{x.upgrade}, up) {
		return fmt.Errorf("%w: switch to %q, %q was asked for", http1.ErrMalformed, up, x.upgrade)
	}
	client, buf, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return err
	}
	out.Started = true
	defer client.Close()
	client.SetDeadline(time.Time{})
	x.h.Bind(res.Header, x.key, be)
	head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
	for k, vs := range res.Header {
		if k != "Connection" {
			for _, v := range vs {
				head += k + ": " + v + "\r\n"
			}
		}
	}
	if _, err := io.WriteString(client, head+"\r\n"); err != nil {
		out.Client = true
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(back, buf.Reader)
		back.Close()
	}()
	io.Copy(client, back)
	client.Close()
	back.Close()
	<-done
	return nil
}

// countedBody remembers whether the client's body was read and why that failed.
type countedBody struct {
	io.ReadCloser
	read bool
	err  error
}

func (c *countedBody) Read(p []byte) (int, error) {
	c.read = true
	n, err := c.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
