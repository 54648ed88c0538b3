package contender

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"runtime/pprof"
	"strconv"

	"github.com/vulcand/oxy/v2/forward"
	"github.com/vulcand/oxy/v2/roundrobin"

	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/front"
	"github.com/tierkit/tierkit/lb/tcp"
)

const roleVar = "LB_ROLE"

// Main must be the first call of a program that starts contenders: it does not return in a process that was started
// as one.
func Main() {
	role := os.Getenv(roleVar)
	if role == "" {
		return
	}
	if err := play(role, os.Getenv("LB_LISTEN"), os.Getenv("LB_BACKEND")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var handlers = map[string]func(u *url.URL) (http.Handler, error){
	"limit": func(*url.URL) (http.Handler, error) { // what no handler can beat: it answers by itself
		size, _ := strconv.Atoi(os.Getenv("LB_SIZE"))
		body := bytes.Repeat([]byte("x"), size)
		length := []string{strconv.Itoa(size)}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{"text/plain"}
			w.Header()["Content-Length"] = length
			w.Write(body)
		}), nil
	},
	"stock": func(u *url.URL) (http.Handler, error) { return httputil.NewSingleHostReverseProxy(u), nil },
	"tuned": func(u *url.URL) (http.Handler, error) {
		p := httputil.NewSingleHostReverseProxy(u)
		p.Transport = &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 512, DisableCompression: true}
		p.BufferPool = free
		return p, nil
	},
	"oxy": func(u *url.URL) (http.Handler, error) {
		rr, err := roundrobin.New(forward.New(true))
		if err != nil {
			return nil, err
		}
		return rr, rr.UpsertServer(u)
	},
	"tierkit":           tierkit(0),
	"tierkit-noreserve": tierkit(-1),
	"tierkit-32MiB":     tierkit(32 << 20),
	"tierkit-64MiB":     tierkit(64 << 20),
}

func tierkit(reserve int) func(u *url.URL) (http.Handler, error) {
	return func(u *url.URL) (http.Handler, error) {
		b, err := lb.New([]lb.Endpoint{{Addr: u.Host}}, lb.Options{})
		if err != nil {
			return nil, err
		}
		return b.Handler(lb.ProxyOptions{HeapReserve: reserve})
	}
}

func play(role, listen, backend string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	go func() { os.Stdin.Read(make([]byte, 1)); stop() }() // ends with its parent
	if name := os.Getenv("LB_PROFILE"); name != "" {
		f, err := os.Create(name + "." + role)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer f.Close()
		defer pprof.StopCPUProfile()
	}
	context.AfterFunc(ctx, func() { l.Close() })
	switch role {
	case "tierkit-tcp":
		b, err := lb.New([]lb.Endpoint{{Addr: backend}}, lb.Options{})
		if err != nil {
			return err
		}
		defer b.Close()
		s, err := tcp.New(b, tcp.Options{Drain: 1})
		if err != nil {
			return err
		}
		return s.Serve(ctx, l)
	case "tierkit-front":
		b, err := lb.New([]lb.Endpoint{{Addr: backend}}, lb.Options{})
		if err != nil {
			return err
		}
		defer b.Close()
		f, err := front.New(b, front.Options{})
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { f.Close() })
		if err := f.Serve(l); err != nil && err != http.ErrServerClosed {
			return err
		}
	default:
		h, err := handlers[role](&url.URL{Scheme: "http", Host: backend})
		if err != nil {
			return err
		}
		http.Serve(l, h)
	}
	return nil
}

// pool of ReverseProxy's copies.
type pool chan []byte

var free = make(pool, 1024)

func (p pool) Get() []byte {
	select {
	case b := <-p:
		return b
	default:
		return make([]byte, 32<<10)
	}
}

func (p pool) Put(b []byte) {
	select {
	case p <- b:
	default:
	}
}
