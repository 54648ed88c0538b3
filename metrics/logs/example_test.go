package logs_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"

	"github.com/tierkit/tierkit/metrics/logs"
	"github.com/tierkit/tierkit/metrics/trace"
)

func Example() {
	text := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	h := logs.NewHandler(text, logs.HandlerOptions{Server: "web-1"})
	ctx := trace.With(context.Background(), &trace.IDs{Request: "r-1"})
	slog.New(h).ErrorContext(ctx, "order 7 failed", "password", "hunter2", "err", "no stock")
	slog.New(h).ErrorContext(ctx, "order 8 failed", "err", "no stock")
	for _, g := range h.Errors() {
		fmt.Println(g.Count, g.Message)
	}
	fmt.Println(len(h.Store().Search(logs.Query{ID: "r-1", Text: "order 8"})), "found")
	// Output:
	// level=ERROR msg="order 7 failed" password=[redacted] err="no stock" request_id=r-1
	// level=ERROR msg="order 8 failed" err="no stock" request_id=r-1
	// 2 order 7 failed
	// 1 found
}

func ExampleShipper() {
	const token = "0123456789abcdef" // from a secret store
	collector := logs.NewStore(logs.StoreOptions{Token: token})
	srv := httptest.NewServer(collector)
	defer srv.Close()

	ship, err := logs.NewShipper(logs.ShipperOptions{URL: srv.URL, Token: token})
	if err != nil {
		panic(err)
	}
	log := slog.New(logs.NewHandler(slog.NewTextHandler(io.Discard, nil),
		logs.HandlerOptions{Server: "web-1", Ship: ship}))
	log.Info("started")
	_ = ship.Shutdown(context.Background()) // sends what waits
	for _, r := range collector.Recent() {
		fmt.Println(r.Server, r.Message)
	}
	// Output: web-1 started
}
