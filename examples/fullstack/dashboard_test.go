package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/examples/fullstack/assemble"
	"github.com/tierkit/tierkit/internal/test/exhaustive"
)

// browser starts a headless Chromium with an empty profile, and collects what pages write to the console as errors.
func browser(t *testing.T) (context.Context, func() []string) {
	exe, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("TIERKIT_REQUIRE_SERVERS") == "1" {
			t.Fatal("needs chromium: apt-get install chromium")
		}
		t.Skip("needs chromium: apt-get install chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(exe), chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1600, 1100))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx)) // the browser lives as long as this context; the timeout is for what follows
	var mu sync.Mutex
	var errs []string
	go func() {
		for m, err := range chromedp.Console(ctx) {
			if err != nil {
				return
			}
			if (m.Type == chromedp.ConsoleException || m.Type == "error") && !strings.Contains(m.URL, "favicon") {
				mu.Lock()
				errs = append(errs, m.Text)
				mu.Unlock()
			}
		}
	}()
	limited, done := context.WithTimeout(ctx, 60*time.Second)
	t.Cleanup(done)
	return limited, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), errs...)
	}
}

// The dashboard shows the play live: values move, a killed node turns red, its failure is in the timeline, and nothing
// is written to the console.
func TestDashboardInABrowser(t *testing.T) {
	exhaustive.Only(t)
	ctx, consoleErrors := browser(t)
	started := make(chan *assemble.Stack, 1)
	var out bytes.Buffer
	code := make(chan int, 1)
	go func() {
		c := config{replay: "sample", duration: 14 * time.Second, rate: rate(240), started: func(s *assemble.Stack) {
			started <- s
		}, drills: []string{"edge eu-west-edge1"}}
		code <- c.run(&out, &out)
	}()
	s := <-started
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(s.Addresses().Dashboard),
		chromedp.WaitVisible(chromedp.CSS(`[data-node="us-east-edge1"]`))))

	// until waits for an expression in the page to be true.
	until := func(what, expr string) {
		t.Helper()
		ok, err := chromedp.Run(ctx, chromedp.Poll[bool](expr, chromedp.WithPollingTimeout(30*time.Second)))
		require.NoError(t, err, what)
		require.True(t, ok, what)
	}
	number := func(selector string) string {
		return `parseFloat((document.querySelector('` + selector + `')||{textContent:"0"}).textContent)`
	}
	until("requests at the edges", number(`[data-series="HTTP requests/edge"]`)+` > 20`)
	until("requests at the web servers", number(`[data-series="HTTP requests/web"]`)+` > 0`)
	until("traffic on the arrow from the clients",
		`parseFloat((document.querySelector('[data-edge="clients-us-east>us-east-edge1"]')||{getAttribute:()=>0}).getAttribute("data-rate")) > 0`)
	until("a primary", `[...document.querySelectorAll('.node')].some(n => n.textContent.includes("primary"))`)
	until("the killed edge is red", `document.querySelector('[data-node="eu-west-edge1"]').dataset.state === "down"`)
	until("and named in the status", `document.getElementById("trouble").textContent.includes("eu-west-edge1 is down")`)
	until("records of several servers", `new Set([...document.querySelectorAll("#logs tr")].map(r => r.children[2].textContent)).size > 2`)
	until("objectives", `document.querySelectorAll("#slos tr").length === 2`)
	until("users", number(`[data-tile="Users today"]`)+` > 0`)
	until("and in the timeline", `[...document.querySelectorAll("#events .failure")].some(e => e.textContent.includes("eu-west-edge1"))`)
	until("the incident was noticed and mended", `[...document.querySelectorAll("#incidents li")].some(e => /edge eu-west-edge1.*noticed [0-9.]+ s.*mended [0-9.]+ s/.test(e.textContent))`)
	until("it comes back", `document.querySelector('[data-node="eu-west-edge1"]').dataset.state === "up"`)
	// From a record to all records of its request, by keyboard.
	_, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`(document.querySelector("#logs button").focus(), true)`))
	require.NoError(t, err)
	require.NoError(t, chromedp.Do(ctx, chromedp.KeyEvent("\r")))
	until("the request is searched for", `document.getElementById("id").value !== "" && [...document.querySelectorAll("#logs tr")].every(r => r.children[3].textContent === document.getElementById("id").value)`)
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(360, 740)))
	narrow, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.documentElement.scrollWidth <= 360`))
	require.NoError(t, err)
	require.True(t, narrow, "fits a phone")
	if dir := os.Getenv("FULLSTACK_SCREENSHOTS"); dir != "" {
		for name, width := range map[string]int64{"phone": 360, "wide": 1600} {
			require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(width, 1100)))
			png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
		}
	}
	// before the service ends and its page complains
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate("about:blank")))
	require.Empty(t, consoleErrors())
	require.Equal(t, 0, <-code, out.String())
}
