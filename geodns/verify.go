package geodns

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// VerifyTarget is a data center to ask.
type VerifyTarget struct {
	Name string // of the center
	URL  string // where it is reached past DNS: "https://192.0.2.1"; a path in it stands before those of the requests
}

// VerifyRequest is sent to every center.
type VerifyRequest struct {
	Method string // empty: GET
	Path   string // with the query: "/photo/7?size=small"
	Header http.Header
	Body   []byte
}

// VerifyOptions configure [Verify]. The zero value of every field is a good default.
type VerifyOptions struct {
	// the Host of all requests, so that all centers see the same; empty: that of each URL
	Host          string
	Headers       []string                                  // of responses, that must be equal; nil: Content-Type
	VersionHeader string                                    // which tells what is deployed; empty: X-Version
	Normalize     func(q VerifyRequest, body []byte) []byte // takes out what may differ, such as the time; nil: nothing
	// bytes of a body that are compared; 0: 4 MiB; a longer one is an error of its center
	MaxBody int64
	Timeout time.Duration // of one request; 0: 10 s
	Client  *http.Client  // nil: one of its own that follows no redirects
}

// VerifyReport is what [Verify] found.
type VerifyReport struct {
	Versions    map[string]string // by center; "" when it tells none or fails
	Differences []Difference      // in the order of the requests
}

// Difference is one point on which the centers are not of one mind.
type Difference struct {
	Request string            // "GET /path"; empty for the version
	What    string            // "error", "status", "body", "version" or "header NAME"
	Values  map[string]string // by center; a body is told as its length and hash
}

// Err is nil when all centers agree, and else wraps [ErrUnequal] and says the first differences.
func (r VerifyReport) Err() error {
	if len(r.Differences) == 0 {
		return nil
	}
	var b strings.Builder
	for i, d := range r.Differences {
		if i == 5 {
			fmt.Fprintf(&b, "; and %d more", len(r.Differences)-i)
			break
		}
		fmt.Fprintf(&b, "; %s: %s %v", cmp.Or(d.Request, "deployed"), d.What, d.Values) // maps print in order
	}
	return fmt.Errorf("%w%s", ErrUnequal, b.String())
}

// Verify asks every center the same requests and reports where their answers differ and which version each runs: after
// a deployment, or before a center takes traffic. Centers are asked at the same time, each its requests in order, so
// give it requests that may be repeated. A center that does not answer is a difference, not an error: errors are of the
// arguments and of ctx.
func Verify(ctx context.Context, targets []VerifyTarget, requests []VerifyRequest, o VerifyOptions) (VerifyReport,
	error) {
	rep := VerifyReport{Versions: map[string]string{}}
	switch {
	case len(targets) == 0:
		return rep, errors.New("geodns: Verify: no targets")
	case len(requests) == 0:
		return rep, errors.New("geodns: Verify: no requests")
	case o.MaxBody < 0 || o.Timeout < 0:
		return rep, errors.New("geodns: VerifyOptions.MaxBody, Timeout: want 0 or more")
	}
	o.VersionHeader = cmp.Or(o.VersionHeader, "X-Version")
	o.MaxBody = cmp.Or(o.MaxBody, 4<<20)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	if o.Headers == nil {
		o.Headers = []string{"Content-Type"}
	}
	if o.Client == nil {
		tr := &http.Transport{Proxy: http.ProxyFromEnvironment}
		defer tr.CloseIdleConnections()
		o.Client = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
	}
	for i, t := range targets {
		u, err := url.Parse(t.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return rep, fmt.Errorf("geodns: Verify: targets[%d].URL %q: want http(s)://host", i, t.URL)
		}
		if _, twice := rep.Versions[t.Name]; twice {
			return rep, fmt.Errorf("geodns: Verify: targets[%d].Name %q: stands twice", i, t.Name)
		}
		rep.Versions[t.Name] = ""
	}
	for i, q := range requests {
		if !strings.HasPrefix(q.Path, "/") {
			return rep, fmt.Errorf("geodns: Verify: requests[%d].Path %q: want one that begins with /", i, q.Path)
		}
	}
	answers := make([][]verified, len(targets))
	var asked sync.WaitGroup
	for i, t := range targets {
		asked.Go(func() {
			for _, q := range requests {
				answers[i] = append(answers[i], o.ask(ctx, t, q))
			}
		})
	}
	asked.Wait()
	if err := ctx.Err(); err != nil {
		return rep, err
	}
	rep.compare(targets, requests, answers, &o)
	return rep, nil
}

// verified is what a center answered to a request.
type verified struct {
	err     string
	version string
	status  string
	headers []string
	body    string
}

func (o *VerifyOptions) ask(ctx context.Context, t VerifyTarget, r VerifyRequest) (v verified) {
	fail := func(err error) verified { return verified{err: err.Error()} }
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, cmp.Or(r.Method, http.MethodGet), strings.TrimSuffix(t.URL, "/")+r.Path,
		bytes.NewReader(r.Body))
	if err != nil {
		return fail(err)
	}
	for k, values := range r.Header {
		q.Header[k] = values
	}
	q.Host = cmp.Or(o.Host, q.Host)
	res, err := o.Client.Do(q)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, o.MaxBody+1))
	if err != nil {
		return fail(err)
	}
	if int64(len(body)) > o.MaxBody {
		return verified{err: fmt.Sprintf("the body is longer than %d bytes", o.MaxBody)}
	}
	if o.Normalize != nil {
		body = o.Normalize(r, body)
	}
	v = verified{version: res.Header.Get(o.VersionHeader), status: strconv.Itoa(res.StatusCode),
		body: fmt.Sprintf("%d bytes, %.8x", len(body), sha256.Sum256(body))}
	for _, name := range o.Headers {
		v.headers = append(v.headers, strings.Join(res.Header.Values(name), ", "))
	}
	return v
}

func (r *VerifyReport) compare(targets []VerifyTarget, requests []VerifyRequest, answers [][]verified,
	o *VerifyOptions) {
	differ := func(request, what string, of func(answer []verified) (value string, ok bool)) {
		values := map[string]string{}
		var seen []string
		for i, t := range targets {
			if v, ok := of(answers[i]); ok {
				values[t.Name] = v
				if !slices.Contains(seen, v) {
					seen = append(seen, v)
				}
			}
		}
		if len(seen) > 1 || what == "error" && len(seen) > 0 {
			r.Differences = append(r.Differences, Difference{request, what, values})
		}
	}
	for i, t := range targets {
		for _, a := range answers[i] {
			r.Versions[t.Name] = cmp.Or(r.Versions[t.Name], a.version)
		}
	}
	differ("", "version", func(as []verified) (v string, ok bool) {
		for _, a := range as {
			v, ok = cmp.Or(v, a.version), ok || a.err == ""
		}
		return v, ok
	})
	for n, q := range requests {
		name := cmp.Or(q.Method, http.MethodGet) + " " + q.Path
		differ(name, "error", func(as []verified) (string, bool) { return as[n].err, as[n].err != "" })
		differ(name, "status", func(as []verified) (string, bool) { return as[n].status, as[n].err == "" })
		for h, header := range o.Headers {
			differ(name, "header "+header, func(as []verified) (string, bool) {
				if as[n].err != "" {
					return "", false
				}
				return as[n].headers[h], true
			})
		}
		differ(name, "body", func(as []verified) (string, bool) { return as[n].body, as[n].err == "" })
	}
}
