// Command cdn shows an edge cache at work: a stampede that the origin does not feel, waiters that read while the fill
// runs, ranges and conditions, a film in slices, an edge that dies, an origin that dies, purges by surrogate key, and a
// restart from disk.
//
//	go run ./examples/cdn
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierkit/tierkit/cdn"
)

func main() {
	clients := flag.Int("clients", 1000, "clients that ask for one page at once")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(),
			"Shows an edge cache at work; takes about four seconds and needs nothing.\n\nusage: cdn [-clients N]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *clients < 1 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*clients); err != nil {
		log.SetFlags(0)
		log.Fatal("cdn: ", err)
	}
}

func run(clients int) error {
	var asked, sent atomic.Int64
	film := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB
	origin, stopOrigin, err := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("ETag", `"v1"`)
		switch {
		case r.URL.Path == "/slow":
			w.Header().Set("Cache-Control", "max-age=60")
			for range 10 {
				io.WriteString(w, strings.Repeat("x", 10_000))
				w.(http.Flusher).Flush()
				time.Sleep(50 * time.Millisecond)
			}
		case r.URL.Path == "/film":
			w.Header().Set("Cache-Control", "max-age=60")
			if r.Header.Get("Range") != "" { // the first answer, with all of it, was broken off
				w = &counted{w, &sent}
			}
			http.ServeContent(w, r, "film.mp4", time.Time{}, bytes.NewReader(film))
		case r.Header.Get("If-None-Match") == `"v1"`:
			w.Header().Set("Cache-Control", "max-age=1")
			w.WriteHeader(http.StatusNotModified)
		default:
			time.Sleep(100 * time.Millisecond)
			w.Header().Set("Cache-Control", "max-age=1, stale-if-error=60")
			w.Header().Set("Surrogate-Key", "pages author-7")
			io.WriteString(w, "<h1>Hello</h1>")
		}
	}))
	if err != nil {
		return err
	}
	defer stopOrigin()
	dir, err := os.MkdirTemp("", "cdn-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	options := cdn.Options{MaxObject: 4 << 20, Disk: cdn.DiskOptions{Dir: dir}}
	edge, err := newEdge(options, origin)
	if err != nil {
		return err
	}
	defer func() { edge.stop() }()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	show := func(what string, res *http.Response, err error) error {
		if err != nil {
			return err
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if len(body) > 20 {
			body = []byte(fmt.Sprintf("%d bytes", len(body)))
		}
		fmt.Printf("  %-38s %d  %-16q %s\n", what, res.StatusCode, body, res.Header.Get("Cache-Status"))
		return err
	}
	get := func(what, path string, header ...string) error {
		req, _ := http.NewRequest(http.MethodGet, edge.url+path, nil)
		req.Host = "www.example.test" // the key of an object is its URL
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := client.Do(req)
		return show(what, res, err)
	}

	start := time.Now()
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range clients {
		wg.Go(func() {
			res, err := client.Get(edge.url + "/page")
			if err != nil {
				failed.Add(1)
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		})
	}
	wg.Wait()
	fmt.Printf("%d clients ask for one page at once: the origin is asked %d time(s), all done in %d ms.\n\n", clients,
		asked.Load(), time.Since(start).Milliseconds())
	if asked.Load() != 1 || failed.Load() > 0 {
		return fmt.Errorf("want one request to the origin and no failure, had %d and %d", asked.Load(), failed.Load())
	}

	fmt.Println("An origin that drips 100 kB over half a second; a second client comes in the middle:")
	first := make(chan error, 1)
	go func() {
		res, err := client.Get(edge.url + "/slow")
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		first <- err
	}()
	time.Sleep(250 * time.Millisecond)
	start = time.Now()
	res, err := client.Get(edge.url + "/slow")
	if err != nil {
		return err
	}
	one := make([]byte, 1)
	if _, err := io.ReadFull(res.Body, one); err != nil {
		return err
	}
	fmt.Printf("  its first byte is there after %.1f ms\n", float64(time.Since(start).Microseconds())/1000)
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if err := <-first; err != nil {
		return err
	}

	fmt.Println("\nWhat a hit can do:")
	if err := errors.Join(
		get("the page", "/page"),
		get("a part of it", "/page", "Range", "bytes=4-8"),
		get("only if it changed", "/page", "If-None-Match", `"v1"`),
	); err != nil {
		return err
	}
	time.Sleep(1100 * time.Millisecond)
	if err := get("a second later: the origin says 304", "/page"); err != nil {
		return err
	}

	fmt.Println("\nA film of 32 MiB, too large to be kept as a whole; the origin sends the slices that are wanted:")
	if err := get("a part in the middle", "/film", "Range", "bytes=20000000-20000999"); err != nil {
		return err
	}
	before := sent.Load()
	if err := errors.Join(get("the same part", "/film", "Range", "bytes=20000000-20000999"),
		get("two parts nearby", "/film", "Range", "bytes=20000500-20000509,20400000-20400009")); err != nil {
		return err
	}
	fmt.Printf("  the last two cost the origin %d bytes\n", sent.Load()-before)
	if sent.Load() != before {
		return errors.New("the slice was fetched twice")
	}

	fmt.Println("\nAnother edge dies, and its clients know a way:")
	other, err := newEdge(cdn.Options{}, origin)
	if err != nil {
		return err
	}
	other.stop()
	fallback, err := cdn.NewFallback(cdn.FallbackOptions{Edge: other.url, Origin: origin, Transport: transport})
	if err != nil {
		return err
	}
	res, err = (&http.Client{Transport: fallback}).Get(other.url + "/page")
	if err := show("from the origin itself", res, err); err != nil {
		return err
	}

	fmt.Println("\nWhat each host has had, for the bill:")
	for _, h := range edge.cache.Hosts() {
		fmt.Printf("  %-20s %5d requests, %8d bytes out, %8d from the origin\n", strings.SplitN(h.Host, ":", 2)[0],
			h.Requests, h.BytesOut, h.BytesIn)
	}

	fmt.Println("\nPurged by surrogate key, then the origin dies:")
	n, err := edge.cache.Purge(context.Background(), cdn.Match{Tag: "author-7"})
	if err != nil {
		return err
	}
	fmt.Printf("  %d object(s) purged\n", n)
	if err := errors.Join(get("fetched anew", "/page"), get("and again", "/page")); err != nil {
		return err
	}
	for end := time.Now().Add(2 * time.Second); edge.cache.Stats().DiskObjects < 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("nothing was written to disk")
		}
	}
	stopOrigin()
	time.Sleep(1100 * time.Millisecond)
	if err := get("stale, since there is nothing better", "/page"); err != nil {
		return err
	}

	edge.stop()
	if edge, err = newEdge(options, origin); err != nil {
		return err
	}
	fmt.Println("\nThe edge is started again, the origin still dead:")
	if err := errors.Join(get("from disk", "/page"), get("never seen", "/other")); err != nil {
		return err
	}
	st := edge.cache.Stats()
	fmt.Printf("\nSince the restart: %d read from disk, %d stale, %d error.\n", st.DiskHits, st.Stale, st.Errors)
	if st.DiskHits != 1 || st.Stale != 1 {
		return errors.New("the disk tier did not serve")
	}
	return nil
}

type edgeNode struct {
	cache *cdn.Cache
	url   string
	stop  func()
}

func newEdge(o cdn.Options, origin string) (*edgeNode, error) {
	c, err := cdn.New(o)
	if err != nil {
		return nil, err
	}
	h, err := c.Proxy(origin, cdn.ProxyOptions{})
	if err != nil {
		c.Close()
		return nil, err
	}
	url, stop, err := serve(h)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &edgeNode{c, url, func() { stop(); c.Close() }}, nil
}

// counted counts the bytes of answers.
type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func serve(h http.Handler) (url string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	return "http://" + l.Addr().String(), func() { s.Close() }, nil
}
