package main

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/examples/fullstack/assemble"
	"github.com/tierkit/tierkit/examples/fullstack/proof"
	"github.com/tierkit/tierkit/examples/fullstack/room"
	"github.com/tierkit/tierkit/examples/fullstack/visitors"
	"github.com/tierkit/tierkit/internal/test/exhaustive"
)

// open starts the service with visitors and an operator, as the program does.
func open(t *testing.T, visitors_ int, one ...bool) (*assemble.Stack, *visitors.Population, *room.Room) {
	s, err := assemble.Start(t.Context(), assemble.Options{Dir: t.TempDir(), OneAddress: len(one) > 0})
	require.NoError(t, err)
	p, err := config{visitors: visitors_}.population(s)
	require.NoError(t, err)
	ctx, leave := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() { defer close(gone); p.Run(ctx) }()
	operator := room.New(ctx, s, p)
	s.Operate(operator)
	t.Cleanup(func() {
		leave()
		<-gone
		operator.Wait()
		require.NoError(t, s.Close())
	})
	return s, p, operator
}

// Visitors read, write and are counted: what they were promised is stored, and a killed web server costs them nothing.
func TestVisitorsAndAKilledServer(t *testing.T) {
	s, p, operator := open(t, 12)
	reads := func(n uint64) func() bool {
		return func() bool { return p.Stats().Views >= n && p.Stats().Writes >= 4 }
	}
	require.Eventually(t, reads(20), 60*time.Second, 50*time.Millisecond, "%+v", p.Stats())
	require.NoError(t, operator.Act(t.Context(), "us-east-web1", "kill"))
	require.ErrorIs(t, operator.Act(t.Context(), "us-east-web9", "kill"), assemble.ErrUnknownNode)
	require.ErrorIs(t, operator.Act(t.Context(), "queue", "kill"), assemble.ErrSingle)
	phases := func(text string) (phases []string) {
		for _, e := range s.Events() {
			if e.ID != "" && strings.Contains(e.Text, text) {
				phases = append(phases, e.Phase)
			}
		}
		return phases
	}
	require.Eventually(t, func() bool { return len(phases("killed us-east-web1")) == 3 }, 20*time.Second,
		20*time.Millisecond)
	views := p.Stats().Views
	require.Eventually(t, reads(views+10), 60*time.Second, 50*time.Millisecond, "%+v", p.Stats())
	require.NoError(t, operator.Act(t.Context(), "us-east-web1", "restore"))
	require.Equal(t, []string{"injected", "noticed", "mended", "restored"}, phases("killed us-east-web1"))
	require.Zero(t, p.Stats().Errors, p.Stats().LastError)

	acknowledged := p.Stats()
	idle, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.Eventually(t, func() bool {
		_, _ = s.WaitIdle(idle)
		books, err := proof.Audit(idle, s.Shards())
		return err == nil && books.ViewsTotal >= int(acknowledged.Views) && books.Events == books.ViewsTotal &&
			books.Likes == books.LikesSum && len(books.Writes) > 0
	}, 20*time.Second, 200*time.Millisecond)
}

// What a person does in the first minutes: read a chapter, register, like, comment, and see all of it come back from
// every server; and press a button of the control room.
func TestNewcomerInABrowser(t *testing.T) {
	exhaustive.Only(t)
	ctx, consoleErrors := browser(t)
	s, _, _ := open(t, 6)
	until := func(what, expr string) { t.Helper(); wait(t, ctx, what, expr) }
	do := func(expr string) {
		t.Helper()
		_, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`(setTimeout(() => {`+expr+`}), true)`))
		require.NoError(t, err)
	}
	site := strings.TrimSuffix(s.Addresses().Site, "/")
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(site+"/")))
	until("eleven chapters", `document.querySelectorAll(".stops li").length === 11 && document.querySelectorAll(".card").length === 10`)
	do(`document.querySelector('.stops a[href="/read/cache"]').click()`)
	until("the chapter", `document.querySelector("h1").textContent.includes("stampede")`)
	do(`document.querySelector("form[data-like] button").click()`)
	until("asked to log in", `location.pathname === "/login"`)
	do(`document.querySelector('a[href^="/register"]').click()`)
	until("the form", `location.pathname === "/register"`)
	do(`(document.querySelector("[name=name]").value = "newcomer", document.querySelector("[name=password]").value = "short", document.querySelector("form[action='/register']").noValidate = true, document.querySelector("form[action='/register'] button").click())`)
	until("refused with a reason", `document.querySelector(".err")?.textContent.includes("8 to 128") && document.querySelector("[name=name]").value === "newcomer"`)
	do(`(document.querySelector("[name=password]").value = "correct horse", document.querySelector("form[action='/register'] button").click())`)
	until("back on the chapter, known", `location.pathname === "/read/cache" && document.querySelector("[data-account]").textContent === "newcomer"`)
	do(`document.querySelector("form[data-like] button").click()`)
	until("liked", `document.querySelector("form[data-like] button").getAttribute("aria-pressed") === "true"`)
	do(`(document.querySelector("#say").value = "<b>from a browser</b>", document.querySelector("form[data-talk] button").click())`)
	until("the comment", `[...document.querySelectorAll(".talk li p")].some(p => p.textContent === "<b>from a browser</b>")`)
	// The X-ray: what was written has purged the edges, so the first answer is a miss with its whole way, the next one
	// a hit with the edge alone.
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(site+"/read/queue?newcomer")))
	until("a miss", `document.querySelector("#xray [data-verdict]").textContent === "edge miss" && document.querySelectorAll(".way li:not(.off)").length >= 3`)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(site+"/read/queue?newcomer")))
	until("a hit", `document.querySelector("#xray [data-verdict]").textContent.startsWith("edge hit") && document.querySelectorAll(".way li.off").length === 3`)
	// The other data center has it too.
	other := "http://" + s.Dial(netip.MustParseAddr("127.2.0.1"))
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(other+"/read/cache")))
	until("the comment, from the other side",
		`[...document.querySelectorAll(".talk li p")].some(p => p.textContent === "<b>from a browser</b>")`)

	for _, width := range []int64{360, 1280, 2560} {
		require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(width, 900)))
		for _, page := range []string{"/", "/read/shards", "/search?q=cache", "/photos", "/login", "/nothing-here"} {
			require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(site+page)))
			until(page, `document.querySelector("h1, h2") !== null`)
			fits, err := chromedp.Run(ctx, chromedp.Evaluate[bool](
				`document.documentElement.scrollWidth <= innerWidth`))
			require.NoError(t, err)
			require.True(t, fits, "%s at %d px", page, width)
		}
	}

	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(s.ControlRoom())))
	until("nodes", `document.querySelectorAll(".node").length > 20`)
	do(`document.querySelector('[data-node="eu-west-lb1"]').click()`)
	until("the sheet", `!document.getElementById("sheet").hidden && document.querySelector('#sheet [data-action="kill"]') !== null`)
	do(`document.querySelector('#sheet [data-action="kill"]').click()`)
	until("killed", `document.querySelector('[data-node="eu-west-lb1"]').dataset.state === "down"`)
	until("noticed", `[...document.querySelectorAll("#incidents li")].some(e => /killed eu-west-lb1.*noticed/.test(e.textContent))`)
	do(`document.querySelector('#sheet [data-action="restore"]').click()`)
	until("restored", `document.querySelector('[data-node="eu-west-lb1"]').dataset.state === "up"`)
	for _, width := range []int64{360, 1280, 2560} {
		require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(width, 900)))
		until("fits", `document.documentElement.scrollWidth <= innerWidth`)
	}
	var errs bytes.Buffer
	for _, e := range consoleErrors() {
		// asked for on purpose
		if !strings.Contains(e, "404") && !strings.Contains(e, "401") && !strings.Contains(e, "400") {
			errs.WriteString(e + "\n")
		}
	}
	require.Empty(t, errs.String())
}

// On a machine with one loopback address everything works the same, on ports instead of addresses.
func TestOneAddress(t *testing.T) {
	s, p, _ := open(t, 6, true)
	for _, addr := range []string{"127.1.0.1", "127.1.0.2", "127.2.0.1", "127.2.0.2"} {
		require.True(t, strings.HasPrefix(s.Dial(netip.MustParseAddr(addr)), "127.0.0.1:"))
	}
	require.Eventually(t, func() bool { return p.Stats().Views > 5 }, 60*time.Second, 50*time.Millisecond)
	require.Zero(t, p.Stats().Errors, p.Stats().LastError)
}
