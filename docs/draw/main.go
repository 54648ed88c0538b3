// Draw makes docs/architecture.svg from docs/architecture.txt.
package main

import (
	"flag"
	"fmt"
	"html"
	"os"
	"strings"
)

type box struct {
	id, zone string
	lines    []string
	x, y     int
}

type arrow struct {
	from, to string
	dashed   bool
}

const (
	width, height = 132, 46
	gapX, gapY    = 40, 18
	top           = 56
)

func main() {
	in := flag.String("in", "docs/architecture.txt", "the `text`")
	out := flag.String("out", "docs/architecture.svg", "the `picture`")
	flag.Parse()
	text, err := os.ReadFile(*in)
	if err == nil {
		var svg string
		if svg, err = draw(string(text)); err == nil {
			err = os.WriteFile(*out, []byte(svg), 0o644)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "draw:", err)
		os.Exit(1)
	}
}

var zoneColor = map[string]string{"us-east": "#2563c9", "eu-west": "#15803d", "shared": "#9333ea", "": "#475569"}

func draw(text string) (string, error) {
	var columns [][]*box
	var titles []string
	var arrows []arrow
	byID := map[string]*box{}
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "== "):
			titles, columns = append(titles, line[3:]), append(columns, nil)
		case strings.Contains(line, ": "):
			id, rest, _ := strings.Cut(line, ": ")
			rest, zone, _ := strings.Cut(rest, " @")
			b := &box{id: id, zone: zone, lines: strings.Split(rest, " / ")}
			if len(columns) == 0 || byID[id] != nil {
				return "", fmt.Errorf("line %d: %q has no column or is there twice", n+1, id)
			}
			columns[len(columns)-1] = append(columns[len(columns)-1], b)
			byID[id] = b
		default:
			f := strings.Fields(line)
			if len(f) != 3 || byID[f[0]] == nil || byID[f[2]] == nil || (f[1] != ">" && f[1] != ".") {
				return "", fmt.Errorf("line %d: want \"box > box\" or \"box . box\"", n+1)
			}
			arrows = append(arrows, arrow{f[0], f[2], f[1] == "."})
		}
	}
	tallest := 0
	for _, c := range columns {
		tallest = max(tallest, len(c)*(height+gapY)-gapY)
	}
	for i, c := range columns {
		y := top + (tallest-(len(c)*(height+gapY)-gapY))/2
		for _, b := range c {
			b.x, b.y = 16+i*(width+gapX), y
			y += height + gapY
		}
	}
	w, h := 32+len(columns)*(width+gapX)-gapX, top+tallest+24
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui,sans-serif" role="img" aria-label="The full architecture, from clients to databases">`+"\n", w, h)
	s.WriteString(`<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#64748b"/></marker></defs>` + "\n")
	fmt.Fprintf(&s, `<rect width="%d" height="%d" rx="10" fill="#f8fafc"/>`+"\n", w, h)
	for i, t := range titles {
		fmt.Fprintf(&s, `<text x="%d" y="32" text-anchor="middle" font-size="13" font-weight="600" fill="#0f172a">%s</text>`+"\n", 16+i*(width+gapX)+width/2, html.EscapeString(t))
	}
	for _, a := range arrows {
		f, t := byID[a.from], byID[a.to]
		x1, y1, x2, y2 := f.x+width, f.y+height/2, t.x, t.y+height/2
		dash := ""
		if a.dashed {
			dash = ` stroke-dasharray="4 4"`
		}
		m := (x1 + x2) / 2
		fmt.Fprintf(&s, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="#64748b" stroke-width="1.3" marker-end="url(#a)"%s/>`+"\n", x1, y1, m, y1, m, y2, x2, y2, dash)
	}
	for _, c := range columns {
		for _, b := range c {
			fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%d" height="%d" rx="7" fill="#fff" stroke="%s" stroke-width="1.6"/>`+"\n", b.x, b.y, width, height, zoneColor[b.zone])
			for i, l := range b.lines {
				size, fill := 12, "#0f172a"
				if i > 0 {
					size, fill = 10, "#475569"
				}
				fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="middle" font-size="%d" fill="%s">%s</text>`+"\n", b.x+
					width/2, b.y+20+i*15, size, fill, html.EscapeString(l))
			}
		}
	}
	x := 16
	for _, z := range []struct{ zone, name string }{{"us-east", "center us-east"}, {"eu-west", "center eu-west"},
		{"shared", "over three failure domains"}} {
		fmt.Fprintf(&s, `<rect x="%d" y="%d" width="10" height="10" rx="2" fill="%s"/><text x="%d" y="%d" font-size="11" fill="#475569">%s</text>`+"\n", x, h-16, zoneColor[z.zone], x+15, h-7, z.name)
		x += 60 + 7*len(z.name)
	}
	s.WriteString("</svg>\n")
	return s.String(), nil
}
