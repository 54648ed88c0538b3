package front_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/tierkit/tierkit/lb"
	"github.com/tierkit/tierkit/lb/front"
)

func Example() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "a") }))
	defer backend.Close()
	pool, _ := lb.New([]lb.Endpoint{{Addr: backend.Listener.Addr().String()}}, lb.Options{})
	defer pool.Close()
	server, err := front.New(pool, front.Options{HeaderTimeout: 5 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	res, err := http.Get("http://" + l.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	io.Copy(os.Stdout, res.Body)
	res.Body.Close()
	server.Shutdown(context.Background()) // requests end, idle connections are closed
	fmt.Println(" ", <-served)
	// Output: a  http: Server closed
}
