package player

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/jpeg"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/examples/fullstack/proof/client"
	"github.com/tierkit/tierkit/internal/backoff"
)

// writer is a client with an account.
type writer struct {
	n         int
	mobile    bool // JSON API with bearer and refresh tokens instead of a session cookie
	name      string
	loggedIn  bool
	loggedOut bool
	tokens    struct{ Access, Refresh string }
}

const password = "correct horse"

// script is what a writer does, one step after the other with a little thought in between. A step that fails has been
// counted as an error; the steps that need it are left out.
func (p *Player) script(ctx context.Context, c *reader) {
	w := c.writer
	think := func() bool { return backoff.Sleep(ctx, 50*time.Millisecond+rand.N(400*time.Millisecond)) == nil }
	if !think() || !p.register(ctx, c) || !think() || !p.login(ctx, c) {
		return
	}
	page := p.favorite(w.n)
	for range 2 {
		if think() && page != "" {
			p.write(ctx, c, "like", "POST", "/-/likes?page="+url.QueryEscape(page), nil, http.StatusNoContent)
		}
		page = p.favorite(w.n + 7)
	}
	if !think() {
		return
	}
	id, ok := p.write(ctx, c, "post", "POST", "/-/posts", []byte("I am "+w.name+" and this is my post."),
		http.StatusCreated)
	if ok && think() {
		p.read(ctx, c, "/-/posts/"+id, http.StatusOK)
		if w.n%3 == 0 && think() {
			p.unpublish(ctx, c, id)
		}
	}
	if w.n%4 == 0 && think() {
		p.upload(ctx, c)
	}
	if w.mobile && think() {
		p.refresh(ctx, c)
	}
	if w.n%20 == 1 && !w.mobile && think() {
		if r, ok := p.step(ctx, c, client.Request{Method: "POST", Path: "/-/logout", Key: client.NewID(),
			Kind: "logout"}); ok &&
			r.Status == http.StatusNoContent {
			w.loggedOut = true
		}
	}
}

// favorite is the page a writer likes; the first page of the log is the celebrity that every second writer likes.
func (p *Player) favorite(n int) string {
	for i := range p.c.Log.Entries {
		e := p.c.Log.Entries[(n*37*(n%2)+i)%len(p.c.Log.Entries)]
		if path := accesslog.Clean(e.Path); p.c.Catalog[path].Kind == accesslog.Page {
			return path
		}
	}
	return ""
}

// step sends one request of the script and counts it. Statuses other than those below 400 are errors.
func (p *Player) step(ctx context.Context, c *reader, a client.Request) (client.Response, bool) {
	if a.Header == nil {
		a.Header = http.Header{}
	}
	if c.writer.tokens.Access != "" {
		a.Header.Set("Authorization", "Bearer "+c.writer.tokens.Access)
	}
	r, err := c.Put(ctx, a)
	if ctx.Err() != nil {
		return r, false
	}
	ok := err == nil && r.Status < 400
	p.result.count(c, a, r, err, ok)
	return r, ok
}

// write is a step that goes into the ledger.
func (p *Player) write(ctx context.Context, c *reader, kind, method, path string, body []byte, want int) (id string,
	ok bool) {
	id = client.NewID()
	p.c.Ledger.Intend(KindWrite, id, kind)
	r, ok := p.step(ctx, c, client.Request{Method: method, Path: path, Body: body, Key: id, Kind: kind})
	if !ok || r.Status != want {
		return id, false
	}
	p.c.Ledger.Ack(KindWrite, id, kind)
	return id, true
}

func form(kv ...string) []byte {
	v := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		v.Set(kv[i], kv[i+1])
	}
	return []byte(v.Encode())
}

var formType = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}

func (p *Player) register(ctx context.Context, c *reader) bool {
	id := client.NewID()
	p.c.Ledger.Intend(KindWrite, id, "register")
	r, ok := p.step(ctx, c, client.Request{Method: "POST", Path: "/-/register",
		Body: form("name", c.writer.name, "password", password), Key: id, Kind: "register", Header: formType.Clone()})
	if ok && r.Status == http.StatusCreated {
		p.c.Ledger.Ack(KindWrite, id, "register")
	}
	return ok
}

func (p *Player) login(ctx context.Context, c *reader) bool {
	w := c.writer
	path := "/-/login"
	if w.mobile {
		path = "/-/api/token"
	}
	r, ok := p.step(ctx, c, client.Request{Method: "POST", Path: path, Body: form("name", w.name, "password", password),
		Key: client.NewID(), Kind: "login", Header: formType.Clone()})
	if ok && w.mobile {
		ok = json.Unmarshal(r.Body, &w.tokens) == nil && w.tokens.Access != ""
	}
	w.loggedIn = ok
	return ok
}

func (p *Player) refresh(ctx context.Context, c *reader) {
	w := c.writer
	r, ok := p.step(ctx, c, client.Request{Method: "POST", Path: "/-/api/refresh",
		Body: form("refresh", w.tokens.Refresh),
		Key:  client.NewID(), Kind: "refresh", Header: formType.Clone()})
	if ok {
		_ = json.Unmarshal(r.Body, &w.tokens)
	}
}

// read gets a URL and counts whether it had the wanted status.
func (p *Player) read(ctx context.Context, c *reader, path string, want int) bool {
	a := client.Request{Method: "GET", Path: path, Kind: "read"}
	r, err := c.Get(ctx, a)
	if ctx.Err() != nil {
		return false
	}
	ok := err == nil && r.Status == want
	p.result.count(c, a, r, err, ok)
	return ok
}

// unpublish deletes a post and looks whether anybody still shows it: after the acknowledgement no server may.
func (p *Player) unpublish(ctx context.Context, c *reader, post string) {
	if _, ok := p.write(ctx, c, "delete", "DELETE", "/-/posts/"+post, nil, http.StatusNoContent); !ok {
		return
	}
	p.c.Ledger.Ack(KindDelete, post, "")
	for range 3 {
		a := client.Request{Method: "GET", Path: "/-/posts/" + post, Kind: "read"}
		r, err := c.Get(ctx, a)
		if ctx.Err() != nil {
			return
		}
		if err == nil && r.Status == http.StatusOK {
			p.result.staleReads.Add(1)
		}
		p.result.count(c, a, r, err, err == nil && r.Status == http.StatusNotFound)
		if backoff.Sleep(ctx, 100*time.Millisecond) != nil {
			return
		}
	}
}

// upload sends a picture that nobody else has and waits until a worker has resized it.
func (p *Player) upload(ctx context.Context, c *reader) {
	id, ok := p.write(ctx, c, "photo", "POST", "/-/photos", picture(c.writer.name), http.StatusCreated)
	if !ok {
		return
	}
	p.c.Ledger.Ack(KindPhoto, id, "")
	start := time.Now()
	for time.Since(start) < p.c.Network.WriteDeadline {
		if backoff.Sleep(ctx, 200*time.Millisecond) != nil {
			return
		}
		r, err := c.Get(ctx, client.Request{Method: "GET", Path: "/-/photos/" + id + "/v1", Kind: "photo"})
		if err == nil && r.Status == http.StatusOK {
			_, format, e := image.DecodeConfig(bytes.NewReader(r.Body))
			if e != nil || format != "jpeg" {
				p.result.fail(c, client.Request{Path: "/-/photos/" + id + "/v1", Kind: "photo"}, time.Now(),
					fmt.Errorf("%w: the photo does not decode", errUnexpected))
			}
			p.result.resized.Observe(time.Since(start))
			return
		}
	}
	p.result.fail(c, client.Request{Path: "/-/photos/" + id + "/v1", Kind: "photo"}, start,
		errors.New("photo was never resized"))
}

// picture is a JPEG that depends on a name.
func picture(name string) []byte {
	h := fnv.New32a()
	h.Write([]byte(name))
	n := h.Sum32()
	img := image.NewRGBA(image.Rect(0, 0, 320, 240))
	for y := range 240 {
		for x := range 320 {
			img.SetRGBA(x, y, color.RGBA{uint8(x + int(n)), uint8(y + int(n>>8)), uint8((x ^ y) + int(n>>16)), 255})
		}
	}
	var b bytes.Buffer
	_ = jpeg.Encode(&b, img, nil)
	return b.Bytes()
}

// Sessions asks, for every writer, whether its session still holds: logged in ones must be known by their name, logged
// out ones must not. It returns how many logins were acknowledged and how many of them are lost.
func (p *Player) Sessions(ctx context.Context) (acknowledged, lost int) {
	for _, c := range p.writers {
		w := c.writer
		if !w.loggedIn {
			continue
		}
		acknowledged++
		a := client.Request{Method: "GET", Path: "/-/me", Kind: "session", Header: http.Header{}, Key: client.NewID()}
		if w.mobile {
			a.Header.Set("Authorization", "Bearer "+w.tokens.Access)
		}
		r, err := c.Put(ctx, a)
		var me struct{ Name string }
		known := err == nil && r.Status == http.StatusOK && json.Unmarshal(r.Body, &me) == nil && me.Name == w.name
		if known == w.loggedOut {
			lost++
		}
	}
	return acknowledged, lost
}
