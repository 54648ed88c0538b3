package site

import (
	"bytes"
	"embed"
	"fmt"
	"hash/fnv"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed pages/*.html
var pages embed.FS

//go:embed static
var static embed.FS

// page is what the templates show. Each uses what it needs of it.
type page struct {
	Title, Description string
	Page               string // path whose views this page counts; "" for none
	Here               string // name of the page itself, for the navigation
	Room               string // address of the control room
	Query, Error       string

	Chapters        []*Chapter
	Chapter         *Chapter
	Count           Count
	Comments, Talk  []Comment
	Lead            *Card
	Cards, Others   []Card
	Photos          []Photo
	Person          string
	Key, Next, Name string // of a form
	Sessions        []time.Time
}

// Card is a chapter with its figures.
type Card struct {
	Chapter *Chapter
	Count   Count
}

// parsePages reads the templates. They belong to the program, so an error is one of the build.
func parsePages() (map[string]*template.Template, error) {
	layout, err := template.New("").Funcs(template.FuncMap{"number": number, "ago": ago}).
		ParseFS(pages, "pages/layout.html")
	if err != nil {
		return nil, err
	}
	all := map[string]*template.Template{}
	for _, name := range []string{"front", "chapter", "search", "photos", "person", "form"} {
		t, err := layout.Clone()
		if err != nil {
			return nil, err
		}
		if all[name], err = t.ParseFS(pages, "pages/"+name+".html"); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// show renders a page. One that is the same for everybody may be kept by edges for some seconds, under tags by which it
// can be purged; all others are kept by nobody.
func (s *Site) show(w http.ResponseWriter, r *http.Request, name string, status int, p page, tags ...string) error {
	p.Chapters = s.chapters
	if s.Room != nil {
		p.Room = s.Room()
	}
	var b bytes.Buffer
	if err := s.pages[name].ExecuteTemplate(&b, "layout", p); err != nil {
		return fmt.Errorf("site: page %s: %w", name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	if len(tags) == 0 {
		h.Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, err := w.Write(b.Bytes())
		return err
	}
	sum := fnv.New64a()
	sum.Write(b.Bytes())
	h.Set("Cache-Control", "public, max-age=0, s-maxage=5, stale-while-revalidate=10, stale-if-error=60")
	h.Set("Surrogate-Key", strings.Join(tags, " "))
	h.Set("Etag", fmt.Sprintf(`"%x"`, sum.Sum64()))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.Bytes()))
	return nil
}

// asset serves a file of the site itself.
func (s *Site) asset(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "public, max-age=60, stale-if-error=3600")
	http.ServeFileFS(w, r, static, "static/"+r.PathValue("name"))
	return nil
}

// number writes 1234567 as 1,234,567.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// ago says how long ago a moment was, in one unit.
func ago(t time.Time) string {
	d := time.Since(t)
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if n := int(d / u.unit); n == 1 {
			return "1 " + u.name + " ago"
		} else if n > 1 {
			return fmt.Sprintf("%d %ss ago", n, u.name)
		}
	}
	return "just now"
}
