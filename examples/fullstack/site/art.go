package site

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
)

// art draws the picture of a chapter: one rule per chapter, seeded by its number, three colors each, the same in light
// and dark. The result is an SVG of at most 8 KB.
func art(number int) string {
	r := rand.New(rand.NewPCG(uint64(number), 0x9e3779b97f4a7c15))
	var b strings.Builder
	rules := []struct {
		back string
		draw func(*strings.Builder, *rand.Rand)
	}{
		{"#1d3557", rays}, {"#3d2645", combs}, {"#0b3d5c", fan}, {"#283618", outlines}, {"#5a189a", dots},
		{"#004643", rings}, {"#22223b", strands}, {"#14213d", mazes}, {"#3a2c2c", bricks}, {"#10002b", ridges},
		{"#1b4332", slots},
	}
	rule := rules[(number-1+len(rules))%len(rules)]
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 400"><rect width="640" height="400" fill="%s"/>`,
		rule.back)
	rule.draw(&b, r)
	b.WriteString("</svg>")
	return b.String()
}

func line(b *strings.Builder, x1, y1, x2, y2, width float64, color string) {
	fmt.Fprintf(b, `<path d="M%.0f %.0fL%.0f %.0f" stroke="%s" stroke-width="%.1f" stroke-linecap="round"/>`, x1, y1,
		x2,
		y2, color, width)
}

func circle(b *strings.Builder, x, y, radius float64, style string) {
	fmt.Fprintf(b, `<circle cx="%.0f" cy="%.0f" r="%.1f" %s/>`, x, y, radius, style)
}

// rays meet in one circle: everything depends on one server.
func rays(b *strings.Builder, r *rand.Rand) {
	for range 60 {
		angle, from := r.Float64()*2*math.Pi, 60+r.Float64()*80
		to := from + 60 + r.Float64()*260
		line(b, 320+from*math.Cos(angle), 200+from*math.Sin(angle), 320+to*math.Cos(angle), 200+to*math.Sin(angle),
			1+r.Float64()*4, "#a8b5c4")
	}
	circle(b, 320, 200, 46, `fill="#f4a261"`)
	circle(b, 320, 200, 22, `fill="#1d3557"`)
}

// combs are two halves that fit each other.
func combs(b *strings.Builder, r *rand.Rand) {
	for i := range 9 {
		y := 40 + 40*float64(i)
		line(b, 60, y, 200+r.Float64()*90, y, 12, "#f2b5d4")
		line(b, 580, y+20, 440-r.Float64()*90, y+20, 12, "#7bdff2")
	}
	line(b, 60, 40, 60, 360, 12, "#f2b5d4")
	line(b, 580, 60, 580, 380, 12, "#7bdff2")
}

// fan spreads from one point to many.
func fan(b *strings.Builder, r *rand.Rand) {
	for i := range 13 {
		y := 40 + 26.7*float64(i)
		color := []string{"#ffcf56", "#a0e8af"}[r.IntN(2)]
		fmt.Fprintf(b, `<path d="M60 200C260 200 330 %.0f 560 %.0f" fill="none" stroke="%s" stroke-width="%.1f" stroke-linecap="round"/>`,
			y, y, color, 2+r.Float64()*7)
		circle(b, 580, y, 8, `fill="`+color+`"`)
	}
}

// outlines follow a shape, each a little later than the one before.
func outlines(b *strings.Builder, _ *rand.Rand) {
	for i := 7; i >= 0; i-- {
		x, y := 140+44*float64(i), 90+22*float64(i)
		style := fmt.Sprintf(`fill="none" stroke="#e9edc9" stroke-width="3" opacity="%.2f"`, 1-float64(i)*0.11)
		if i == 0 {
			style = `fill="#dda15e"`
		}
		fmt.Fprintf(b, `<rect x="%.0f" y="%.0f" width="190" height="120" rx="60" %s/>`, x, y, style)
	}
}

// dots have sizes by Zipf's law: few things are asked for often.
func dots(b *strings.Builder, r *rand.Rand) {
	for i := range 160 {
		radius := 18 * math.Pow(float64(i+1), -0.24) * (0.75 + r.Float64()*0.3)
		color := "#f3e8ff"
		if r.Float64() < 1.6/math.Sqrt(float64(i+2)) {
			color = "#ff9e00"
		}
		circle(b, 20+40*float64(i%16), 20+40*float64(i/16), radius, `fill="`+color+`"`)
	}
}

// rings stand around places near the readers.
func rings(b *strings.Builder, r *rand.Rand) {
	for _, p := range [][2]float64{{150, 120}, {470, 100}, {320, 290}, {80, 320}, {580, 300}} {
		for i := range 6 {
			circle(b, p[0], p[1], 18+22*float64(i)+r.Float64()*6,
				fmt.Sprintf(`fill="none" stroke="%s" stroke-width="%d"`, []string{"#f9f871", "#7ae7c7"}[min(i/2, 1)],
					max(5-i, 1)))
		}
	}
}

// strands cross and stay whole.
func strands(b *strings.Builder, r *rand.Rand) {
	for i := range 12 {
		y1, y2 := 40+29*float64(i), 40+29*float64((i*5+r.IntN(3))%12)
		fmt.Fprintf(b, `<path d="M0 %.0fC220 %.0f 420 %.0f 640 %.0f" fill="none" stroke="%s" stroke-width="6"/>`, y1,
			y1,
			y2, y2, []string{"#c9ada7", "#9a8c98", "#f2e9e4"}[i%3])
	}
}

// mazes are two, with a border between them.
func mazes(b *strings.Builder, r *rand.Rand) {
	for side, x := range []float64{170, 470} {
		for i := range 7 {
			radius := 20 + 21*float64(i)
			circle(b, x, 200, radius, fmt.Sprintf(
				`fill="none" stroke="%s" stroke-width="8" stroke-dasharray="%.0f 14" stroke-dashoffset="%.0f"`,
				[]string{"#fca311", "#8ecae6"}[side], 24+r.Float64()*70, r.Float64()*80))
		}
	}
	fmt.Fprint(b, `<path d="M320 10V390" stroke="#e5e5e5" stroke-width="2" stroke-dasharray="2 8"/>`)
}

// bricks wait in rows.
func bricks(b *strings.Builder, r *rand.Rand) {
	for row := range 9 {
		for x := 10.0; x < 620; {
			width := 30 + r.Float64()*70
			color := []string{"#8d6a5f", "#c9a58b", "#e8c7a8", "#d9605a"}[min(r.IntN(9)/2, 3)]
			fmt.Fprintf(b, `<rect x="%.0f" y="%d" width="%.0f" height="30" rx="2" fill="%s"/>`, x, 30+39*row,
				min(width, 630-x), color)
			x += width + 7
		}
	}
}

// ridges are the lines of a chart, one behind the other.
func ridges(b *strings.Builder, r *rand.Rand) {
	for i := range 11 {
		base := 90 + 27*float64(i)
		fmt.Fprintf(b, `<path d="M30 %.0f`, base)
		peak, height := 120+r.Float64()*400, 30+r.Float64()*70
		for x := 50.0; x <= 610; x += 14 {
			y := base - height*math.Exp(-math.Pow((x-peak)/70, 2)) - r.Float64()*8
			fmt.Fprintf(b, `L%.0f %.0f`, x, y)
		}
		fmt.Fprintf(b, `" fill="#10002b" stroke="%s" stroke-width="2.5"/>`,
			[]string{"#4cc9f0", "#f72585"}[min(r.IntN(5)/4, 1)])
	}
}

// slots make a ring, and some of them move.
func slots(b *strings.Builder, r *rand.Rand) {
	const n = 36
	for i := range n {
		angle := 2 * math.Pi * float64(i) / n
		from, to := 80.0, 130+r.Float64()*50
		color := []string{"#ffffff", "#ffd60a", "#95d5b2"}[i*3/n]
		if r.IntN(6) == 0 {
			from, to, color = 100, 185, "#ffd60a"
		}
		line(b, 320+from*math.Cos(angle), 200+from*math.Sin(angle), 320+to*math.Cos(angle), 200+to*math.Sin(angle), 9,
			color)
	}
}

// serveArt serves a picture under a name that never changes its content, so that edges and browsers may keep it.
func (s *Site) serveArt(w http.ResponseWriter, r *http.Request) error {
	number, err := strconv.Atoi(strings.TrimSuffix(r.PathValue("name"), ".svg"))
	if err != nil || number < 1 || number > len(s.chapters) {
		return statusError{http.StatusNotFound, "no such picture"}
	}
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, err = w.Write([]byte(art(number)))
	return err
}
