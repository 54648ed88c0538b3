// Package kubernetes lets package autoscale size a Deployment, StatefulSet or anything else with a scale subresource,
// over plain HTTP: the subresource is one small JSON object, for which a client library of a hundred modules is too
// much.
//
//	target, err := kubernetes.InCluster("shop", "deployments", "web")
//	c, err := autoscale.New(target.Funcs(), policy, samples, autoscale.Options{})
//
// The service account needs the verbs get and update on "deployments/scale". Do not let a HorizontalPodAutoscaler scale
// the same object.
package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/tierkit/tierkit/autoscale"
)

// Errors, wrapped with what the API server said.
var (
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("kubernetes: not found")
	// ErrForbidden: the token is missing, wrong, or may not get or update the scale.
	ErrForbidden = errors.New("kubernetes: forbidden")
	// ErrConflict: somebody else changed the scale each time this did.
	ErrConflict = errors.New("kubernetes: conflict")
)

// Options name a target. Server, Namespace and Name are required.
type Options struct {
	// Server is the API server's URL.
	Server string
	// Namespace, Resource ("deployments") and Name are those of the object. Resource "" means deployments.
	Namespace, Resource, Name string
	// API is the group and version of the resource. Empty means apps/v1.
	API string
	// Token returns the bearer token; it is asked for each request, because tokens rotate. Nil sends none.
	Token func() (string, error)
	// Client sends. Nil means one with a timeout of 10 s and the system's certificates.
	Client *http.Client
}

// Target is one object's scale. It is safe for concurrent use.
type Target struct {
	o   Options
	url string
}

// New checks the options. It sends nothing.
func New(o Options) (*Target, error) {
	u, err := url.Parse(o.Server)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("kubernetes: Options.Server %q: want a URL such as https://10.0.0.1:443", o.Server)
	}
	if o.Resource == "" {
		o.Resource = "deployments"
	}
	if o.API == "" {
		o.API = "apps/v1"
	}
	for field, v := range map[string]string{"Namespace": o.Namespace, "Resource": o.Resource, "Name": o.Name} {
		if v == "" || strings.Trim(v, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || strings.Trim(v, ".") == "" {
			return nil, fmt.Errorf("kubernetes: Options.%s %q is not a name that Kubernetes knows", field, v)
		}
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: 10 * time.Second}
	}
	base := "/apis/" + o.API
	if o.API == "v1" { // replicationcontrollers
		base = "/api/v1"
	}
	return &Target{o, strings.TrimSuffix(o.Server, "/") +
		path.Join(base, "namespaces", o.Namespace, o.Resource, o.Name, "scale")}, nil
}

// account is where a pod finds its service account.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// InCluster is New for a program that runs in the cluster: address, token and certificate are those of its service
// account. An empty namespace is its own.
func InCluster(namespace, resource, name string) (*Target, error) {
	return inCluster(account, os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"), namespace,
		resource, name)
}

func inCluster(dir, host, port, namespace, resource, name string) (*Target, error) {
	if host == "" || port == "" {
		return nil, errors.New("kubernetes: not in a cluster: KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set")
	}
	pem, err := os.ReadFile(dir + "ca.crt")
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("kubernetes: %sca.crt has no certificate", dir)
	}
	if namespace == "" {
		b, err := os.ReadFile(dir + "namespace")
		if err != nil {
			return nil, fmt.Errorf("kubernetes: %w", err)
		}
		namespace = strings.TrimSpace(string(b))
	}
	return New(Options{Server: "https://" + net.JoinHostPort(host, port), Namespace: namespace, Resource: resource,
		Name: name,
		Token: func() (string, error) {
			b, err := os.ReadFile(dir + "token") // the kubelet renews it
			return strings.TrimSpace(string(b)), err
		},
		Client: &http.Client{Timeout: 10 * time.Second,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
				IdleConnTimeout: time.Minute}},
	})
}

// scale is autoscaling/v1 Scale. What else the server sends is sent back unchanged in metadata.
type scale struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       struct {
		Replicas int `json:"replicas"`
	} `json:"spec"`
	Status struct {
		Replicas int `json:"replicas"`
	} `json:"status"`
}

// Funcs are what a controller needs.
func (t *Target) Funcs() autoscale.Funcs { return autoscale.Funcs{Get: t.Get, Set: t.Set} }

// Get returns how many replicas were asked for.
func (t *Target) Get(ctx context.Context) (int, error) {
	s, err := t.do(ctx, http.MethodGet, nil)
	return s.Spec.Replicas, err
}

// Set asks for a number of replicas. It names the version it has read, so that a change by somebody else is noticed: it
// reads again then, and tries up to five times.
func (t *Target) Set(ctx context.Context, n int) error {
	if n < 0 {
		return fmt.Errorf("kubernetes: %d replicas", n)
	}
	for attempt := 0; ; attempt++ {
		s, err := t.do(ctx, http.MethodGet, nil)
		if err != nil || s.Spec.Replicas == n {
			return err
		}
		s.Spec.Replicas = n
		if _, err = t.do(ctx, http.MethodPut, &s); !errors.Is(err, ErrConflict) || attempt == 4 {
			return err
		}
	}
}

// do sends one request, and waits as long as an overloaded server asks for, twice.
func (t *Target) do(ctx context.Context, method string, body *scale) (s scale, err error) {
	for attempt := 0; ; attempt++ {
		var pause time.Duration
		if s, pause, err = t.once(ctx, method, body); pause == 0 || attempt == 2 {
			return s, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return s, errors.Join(err, ctx.Err())
		case <-timer.C:
		}
	}
}

func (t *Target) once(ctx context.Context, method string, body *scale) (s scale, pause time.Duration, err error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return s, 0, fmt.Errorf("kubernetes: %w", err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, t.url, in)
	if err != nil {
		return s, 0, fmt.Errorf("kubernetes: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	if t.o.Token != nil {
		token, err := t.o.Token()
		if err != nil {
			return s, 0, fmt.Errorf("kubernetes: token: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := t.o.Client.Do(req)
	if err != nil {
		return s, 0, fmt.Errorf("kubernetes: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return s, 0, fmt.Errorf("kubernetes: %w", err)
	}
	if res.StatusCode/100 == 2 {
		if err := json.Unmarshal(b, &s); err != nil || s.Kind != "Scale" {
			return s, 0, fmt.Errorf("kubernetes: %s answered with %q, not with a Scale: %w", t.url, s.Kind,
				errors.Join(err, errors.ErrUnsupported))
		}
		return s, 0, nil
	}
	var status struct{ Message string }
	_ = json.Unmarshal(b, &status) // proxies answer in HTML
	err = fmt.Errorf("kubernetes: %s %s: %s: %s", method, t.url, res.Status, status.Message)
	switch res.StatusCode {
	case http.StatusNotFound:
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	case http.StatusUnauthorized, http.StatusForbidden:
		err = fmt.Errorf("%w: %w", ErrForbidden, err)
	case http.StatusConflict:
		err = fmt.Errorf("%w: %w", ErrConflict, err)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		seconds, perr := strconv.Atoi(res.Header.Get("Retry-After"))
		if perr != nil || seconds < 1 {
			seconds = 1
		}
		pause = time.Duration(min(seconds, 10)) * time.Second
	}
	return s, pause, err
}
