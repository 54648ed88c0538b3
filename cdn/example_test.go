package cdn_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/tierkit/tierkit/cdn"
)

func Example() {
	c, err := cdn.New(cdn.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	site := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the handler is asked for", r.URL.Path)
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, "hello")
	}))
	for range 3 {
		w := httptest.NewRecorder()
		site.ServeHTTP(w, httptest.NewRequest("GET", "http://example.com/page", nil))
		fmt.Println(w.Body)
	}
	// Output:
	// the handler is asked for /page
	// hello
	// hello
	// hello
}

func ExampleCache_Purge() {
	c, _ := cdn.New(cdn.Options{})
	defer c.Close()
	site := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		w.Header().Set("Surrogate-Key", "author-7") // everything that shows author 7
	}))
	for _, page := range []string{"/1", "/2"} {
		site.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://example.com"+page, nil))
	}
	n, err := c.Purge(context.Background(), cdn.Match{Tag: "author-7"})
	fmt.Println(n, err)
	// Output: 2 <nil>
}

func ExampleCache_Proxy() {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, "from the origin")
	}))
	defer origin.Close()
	c, _ := cdn.New(cdn.Options{})
	defer c.Close()
	edge, err := c.Proxy(origin.URL, cdn.ProxyOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	w := httptest.NewRecorder()
	edge.ServeHTTP(w, httptest.NewRequest("GET", "http://example.com/", nil))
	fmt.Println(w.Body, "|", w.Header().Get("Cache-Status"))
	// Output: from the origin | tierkit; fwd=uri-miss; fwd-status=200; stored
}

// A Go client goes to the origin when the edge is down.
func ExampleNewFallback() {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "from the origin")
	}))
	defer origin.Close()
	edge := httptest.NewServer(http.NotFoundHandler())
	edge.Close() // dead
	fallback, err := cdn.NewFallback(cdn.FallbackOptions{Edge: edge.URL, Origin: origin.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	res, err := (&http.Client{Transport: fallback}).Get(edge.URL + "/photo.jpg")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	fmt.Printf("%s, %+v\n", b, fallback.Stats())
	// Output: from the origin, {EdgeFailures:1 ToOrigin:1}
}

// What a bill counts.
func ExampleCache_Hosts() {
	c, err := cdn.New(cdn.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	h := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, "0123456789")
	}))
	for range 3 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://shop.example/", nil))
	}
	for _, host := range c.Hosts() {
		fmt.Println(host.Host, host.Requests, "requests,", host.BytesOut, "bytes out,", host.BytesIn, "in")
	}
	// Output: shop.example 3 requests, 30 bytes out, 10 in
}
