package visitors

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/tierkit/tierkit/examples/fullstack/proof/client"
	"github.com/tierkit/tierkit/internal/backoff"
)

// visit is one person's stay on the site.
type visit struct {
	p    *Population
	r    *rand.Rand
	c    *client.Client
	name string
	in   bool            // logged in
	seen map[string]bool // assets that the browser has
}

// stay is the whole visit: the front page, some chapters, and what one does there.
func (v *visit) stay(ctx context.Context) {
	if !v.page(ctx, "/") {
		return
	}
	for range 1 + min(int(v.r.ExpFloat64()*2), 7) {
		if !v.think(ctx, 1500*time.Millisecond) {
			return
		}
		chapter, star := v.p.o.Chapters[zipf(v.r, len(v.p.o.Chapters))], v.p.Crowd().Star
		if star {
			chapter = v.p.o.Chapters[len(v.p.o.Chapters)-1] // one that hardly anybody knew
		}
		if !v.page(ctx, chapter) || !v.view(ctx, chapter) || !v.think(ctx, 2500*time.Millisecond) {
			return
		}
		switch x := v.r.Float64(); {
		case x < 0.14 || star && x < 0.6:
			v.form(ctx, "like", chapter+"/like", nil, http.StatusOK)
		case x < 0.20:
			text := remarks[v.r.IntN(len(remarks))]
			v.form(ctx, "comment", chapter+"/comments", url.Values{"text": {text}}, http.StatusCreated)
		case x < 0.22:
			v.upload(ctx)
		case x < 0.25:
			word := strings.TrimPrefix(path.Base(chapter), "/")
			r, err := v.c.Get(ctx, v.ask("/search?q="+url.QueryEscape(word), "text/html"))
			v.done(ctx, "search", r, err, http.StatusOK)
		}
	}
}

func (v *visit) think(ctx context.Context, mean time.Duration) bool {
	return backoff.Sleep(ctx, pause(v.r, mean, float64(v.p.Crowd().Factor))) == nil
}

func (v *visit) ask(path, accept string) client.Request {
	return client.Request{Method: "GET", Path: path, Header: http.Header{"Accept": {accept}}}
}

// done counts a request unless the population is leaving.
func (v *visit) done(ctx context.Context, what string, r client.Response, err error, want int) bool {
	return ctx.Err() == nil && v.p.count(what, r, err, want)
}

// page gets a page and what it shows, as far as the browser does not have it yet.
func (v *visit) page(ctx context.Context, path string) bool {
	r, err := v.c.Get(ctx, v.ask(path, "text/html"))
	if !v.done(ctx, "page "+path, r, err, http.StatusOK) {
		return false
	}
	for _, asset := range assets(r.Body, 8) {
		if v.seen[asset] {
			continue
		}
		v.seen[asset] = true
		r, err := v.c.Get(ctx, v.ask(asset, "*/*"))
		if !v.done(ctx, "asset "+asset, r, err, http.StatusOK) {
			return false
		}
	}
	return true
}

// assets are the first files of this site that a page refers to.
func assets(page []byte, limit int) (found []string) {
	for _, part := range bytes.Split(page, []byte(`"`)) {
		s := string(part)
		for _, prefix := range []string{"/static/", "/art/", "/-/photos/"} {
			if strings.HasPrefix(s, prefix) && !strings.ContainsAny(s, " <>") && len(found) < limit {
				found = append(found, s)
			}
		}
	}
	return found
}

// view posts the view of a page until it is acknowledged.
func (v *visit) view(ctx context.Context, path string) bool {
	id := client.NewID()
	body, _ := json.Marshal([]map[string]string{{"id": id, "path": path}})
	r, err := v.c.Put(ctx, client.Request{Method: "POST", Path: "/-/beacon", Body: body, Key: id,
		Header: http.Header{"Content-Type": {"application/json"}}})
	ok := v.done(ctx, "view of "+path, r, err, http.StatusNoContent)
	if ok {
		v.p.views.Add(1)
	}
	return ok
}

// form sends a form as the page's script does, after logging in.
func (v *visit) form(ctx context.Context, what, path string, fields url.Values, want int) bool {
	if !v.login(ctx) {
		return false
	}
	return v.post(ctx, what, path, []byte(fields.Encode()), "application/x-www-form-urlencoded", want)
}

func (v *visit) post(ctx context.Context, what, path string, body []byte, contentType string, want int) bool {
	r, err := v.c.Put(ctx, client.Request{Method: "POST", Path: path, Body: body, Key: client.NewID(),
		Header: http.Header{"Content-Type": {contentType}, "Accept": {"application/json"}}})
	ok := v.done(ctx, what, r, err, want)
	if ok {
		v.p.writes.Add(1)
	}
	return ok
}

// login registers the first time: the account is in every data center from then on.
func (v *visit) login(ctx context.Context) bool {
	if v.in {
		return true
	}
	fields := []byte(url.Values{"name": {v.name}, "password": {"a visitor's password"}}.Encode())
	const form = "application/x-www-form-urlencoded"
	v.in = v.post(ctx, "register", "/-/register", fields, form, http.StatusCreated) && v.think(ctx, time.Second/2) &&
		v.post(ctx, "login", "/-/login", fields, form, http.StatusNoContent)
	return v.in
}

func (v *visit) upload(ctx context.Context) bool {
	return v.login(ctx) && v.post(ctx, "photo", "/-/photos", v.photo(), "image/jpeg", http.StatusCreated)
}

// photo draws hills under a sky.
func (v *visit) photo() []byte {
	const w, h = 480, 320
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	hue := uint8(v.r.IntN(120))
	for y := range h {
		for x := range w {
			img.SetRGBA(x, y, color.RGBA{120 + hue/2, 170 + uint8(y/8), 230 - hue/4, 255})
		}
	}
	for layer := range 4 {
		height := float64(110 + 55*layer)
		for x := range w {
			if x%12 == 0 {
				height += v.r.Float64()*16 - 8
			}
			for y := int(height); y < h; y++ {
				shade := uint8(150 - 32*layer)
				img.SetRGBA(x, y, color.RGBA{shade / 2, shade, hue/2 + shade/3, 255})
			}
		}
	}
	var b bytes.Buffer
	_ = jpeg.Encode(&b, img, nil)
	return b.Bytes()
}

var names = []string{"ada", "alan", "barbara", "dennis", "donald", "edsger", "frances", "grace", "jean", "john", "ken",
	"leslie", "margaret", "radia", "robin", "sophie"}

var remarks = []string{
	"We learned this the hard way last winter.",
	"The list of what breaks is the part I sent to my team.",
	"How do you test this before it happens?",
	"We stayed on one machine for six years. It was the right decision.",
	"I killed a server in the control room while I read this, and did not notice.",
	"The twenty lines are shorter than our configuration file.",
	"What happens when both of them fail at once?",
	"Our incident was exactly the second point.",
	"Saved for the next time somebody wants to start with shards.",
	"The line under the page says that this came from the edge. Nice.",
}
