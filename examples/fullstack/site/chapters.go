package site

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"io/fs"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"

	"github.com/tierkit/tierkit/docs/guide"
)

// Chapter is one article: a step of the ladder.
type Chapter struct {
	Number         int
	Slug, Path     string // "cache", "/read/cache"
	Title, Short   string
	Stand          string   // what the chapter says in a sentence or two
	Packages       []string // those that it is about
	Minutes        int      // to read
	Body           template.HTML
	Previous, Next *Chapter
	search         string // what the search looks into, in lower case
}

// chapters reads the guide. The files belong to the program, so an error is one of the build.
func chapters() ([]*Chapter, error) {
	md := goldmark.New(goldmark.WithExtensions(extension.GFM), goldmark.WithParserOptions(parser.WithAutoHeadingID()))
	names, err := fs.Glob(guide.Files, "*.md")
	if err != nil {
		return nil, err
	}
	var all []*Chapter
	for _, name := range names {
		text, err := guide.Files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		c, body, err := parseHeader(string(text))
		if err != nil {
			return nil, fmt.Errorf("site: guide %s: %w", name, err)
		}
		number, slug, ok := strings.Cut(strings.TrimSuffix(name, ".md"), "-")
		if _, err := fmt.Sscanf(number, "%d", &c.Number); err != nil || !ok {
			return nil, fmt.Errorf("site: guide %s: want a name such as 05-cache.md", name)
		}
		c.Slug, c.Path = slug, "/read/"+slug
		c.Minutes = max(1, len(strings.Fields(body))/180)
		c.search = strings.ToLower(c.Title + " " + c.Short + " " + c.Stand)
		var out bytes.Buffer
		if err := md.Convert([]byte(body), &out); err != nil {
			return nil, fmt.Errorf("site: guide %s: %w", name, err)
		}
		c.Body = template.HTML(out.String()) // of our own files; goldmark leaves raw HTML out
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Chapter) int { return cmp.Compare(a.Number, b.Number) })
	for i := 1; i < len(all); i++ {
		all[i].Previous, all[i-1].Next = all[i-1], all[i]
	}
	return all, nil
}

// Popular lists the paths of the chapters as the simulated visitors like them, the most read first.
func Popular() ([]string, error) {
	all, err := chapters()
	if err != nil {
		return nil, err
	}
	var paths []string
	for i := range all { // a fixed order that is not that of the numbers
		paths = append(paths, all[(4+i*7)%len(all)].Path)
	}
	return paths, nil
}

// parseHeader reads the lines between the first two lines of dashes.
func parseHeader(text string) (*Chapter, string, error) {
	rest, ok := strings.CutPrefix(text, "---\n")
	head, body, ok2 := strings.Cut(rest, "\n---\n")
	if !ok || !ok2 {
		return nil, "", fmt.Errorf("want a header between lines of dashes")
	}
	c := &Chapter{}
	for n, line := range strings.Split(head, "\n") {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "title":
			c.Title = value
		case "short":
			c.Short = value
		case "stand":
			c.Stand = value
		case "packages":
			for _, p := range strings.Split(value, ",") {
				if p = strings.TrimSpace(p); p != "" {
					c.Packages = append(c.Packages, p)
				}
			}
		default:
			return nil, "", fmt.Errorf("header line %d: unknown field %q", n+1, name)
		}
	}
	if c.Title == "" || c.Short == "" || c.Stand == "" {
		return nil, "", fmt.Errorf("the header lacks title, short or stand")
	}
	return c, body, nil
}
