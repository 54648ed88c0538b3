package slo

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
)

const (
	bin       = 5 // seconds of one step of the simulated world
	instances = 3
	regions   = 3
	month     = 30 * 86400.0
	daySecs   = 86400
)

// scenario names one simulated world. Everything else follows from it and its seed.
type scenario struct {
	Objective float64 `json:"objective"`
	Rate      float64 `json:"rate"`    // mean requests a second of the whole service
	Pattern   string  `json:"pattern"` // constant, daily, bursty, nightzero
	Fault     string  `json:"fault"`
	Scrape    int     `json:"scrape"` // seconds
	Seed      uint64  `json:"seed"`
}

func (s scenario) ID() string {
	return fmt.Sprintf("%g_%g_%s_%s_%ds_%d", s.Objective, s.Rate, s.Pattern, s.Fault, s.Scrape, s.Seed)
}

var (
	objectives = []float64{0.5, 0.9, 0.95, 0.99, 0.999, 0.9999}
	rates      = []float64{0.01, 1, 100, 10000}
	patterns   = []string{"constant", "daily", "bursty", "nightzero"}
	faults     = []string{"none", "none09", "slow2x", "slow1x", "total20m", "total60m", "total3h", "half60m", "half3h",
		"ten3h", "one6h",
		"blip10s", "blip1m", "blip3m", "flap", "onebad", "fewbad", "deploy", "oneinst", "resets", "scrapehalf",
		"halfblind",
		"dns60m", "dead60m", "hang", "surge", "night60m", "slowanswers"}
)

// world is what really happened, and what a scraper could see of it.
type world struct {
	s          scenario
	hist, dur  int // seconds before the fault, and in all
	start, end int // of the fault; equal: none
	probes     bool
	p          []float64    // true share of bad requests in each bin, of the whole service
	bad, total []float64    // true events in each bin
	minTraffic float64      // expected events of the quietest 15 minutes
	series     []instSeries // one for each instance
	probe      [][]sample   // one for each region
	kind       string       // "errors", "gone", "dead", "" for none
	background float64
}

type sample struct {
	t  int
	v  float64
	ok bool // false: the scrape failed
}

type instSeries struct{ bad, good, total []sample }

func poisson(r *rand.Rand, l float64) float64 {
	switch {
	case l <= 0:
		return 0
	case l < 30:
		limit, k, p := math.Exp(-l), 0.0, r.Float64()
		for p > limit {
			k++
			p *= r.Float64()
		}
		return k
	}
	return math.Max(0, math.Round(l+math.Sqrt(l)*r.NormFloat64()))
}

func binomial(r *rand.Rand, n, p float64) float64 {
	switch {
	case n <= 0 || p <= 0:
		return 0
	case p >= 1:
		return n
	case n*p < 30:
		if n < 60 {
			k := 0.0
			for range int(n) {
				if r.Float64() < p {
					k++
				}
			}
			return k
		}
		return math.Min(n, poisson(r, n*p))
	}
	return math.Min(n, math.Max(0, math.Round(n*p+math.Sqrt(n*p*(1-p))*r.NormFloat64())))
}

func simulate(s scenario) *world {
	h := fnv.New64a()
	h.Write([]byte(s.ID()))
	r := rand.New(rand.NewPCG(h.Sum64(), s.Seed))
	b := 1 - s.Objective
	w := &world{s: s, probes: r.IntN(2) == 0, kind: "errors"}
	w.background = []float64{0, 0.2, 0.5}[r.IntN(3)] * b
	length, share := 0, 0.0
	switch s.Fault {
	case "none", "none09", "surge", "resets", "scrapehalf", "onebad", "fewbad":
		w.kind = ""
		if s.Fault == "none" {
			w.background = 0.5 * b
		}
		if s.Fault == "none09" {
			w.background = 0.9 * b
		}
		if s.Fault == "onebad" || s.Fault == "fewbad" {
			w.background = 0
		}
		length = 3 * 3600
	case "slow2x":
		length, share = 84*3600, math.Min(2*b, 1)
	case "slow1x":
		length, share = 84*3600, b
	case "total20m":
		length, share = 1200, 1
	case "total60m", "night60m", "halfblind":
		length, share = 3600, 1
	case "total3h":
		length, share = 3*3600, 1
	case "half60m":
		length, share = 3600, 0.5
	case "half3h":
		length, share = 3*3600, 0.5
	case "ten3h":
		length, share = 3*3600, 0.1
	case "one6h":
		length, share = 6*3600, 0.01
	case "blip10s":
		length, share = 10, 1
	case "blip1m":
		length, share = 60, 1
	case "blip3m":
		length, share = 180, 1
	case "flap":
		length, share = 2*3600, 1
	case "deploy":
		length, share = 25*60, 0.3
	case "oneinst":
		length, share = 2*3600, 1
	case "slowanswers":
		length, share = 2*3600, 0.25
	case "dns60m":
		w.kind, length = "gone", 3600
	case "dead60m":
		w.kind, length = "dead", 3600
	case "hang":
		w.kind, length = "gone", 40*60
	default:
		panic("no such fault: " + s.Fault)
	}
	if share > 0 {
		share = math.Max(share, w.background)
	}
	// Two days of history, then the fault at a random time of the day (a night for some), then nine hours.
	tod := r.IntN(daySecs/60) * 60
	if s.Fault == "night60m" || s.Fault == "onebad" {
		tod = 3*3600 + r.IntN(60)*60
	}
	if s.Pattern == "nightzero" && s.Fault != "onebad" && s.Fault != "night60m" {
		tod = 8*3600 + r.IntN(10*60)*60 // while somebody is there
	}
	w.hist = 2*daySecs + tod
	w.start = w.hist + r.IntN(12)*bin
	w.end = w.start + length
	w.dur = (w.end + 9*3600) / 60 * 60
	n := w.dur / bin

	// The traffic.
	shape := make([]float64, n)
	var mean float64
	on := true
	left := 0
	for i := range n {
		t := i * bin
		hour := float64(t%daySecs) / 3600
		f := 1.0
		switch s.Pattern {
		case "daily":
			f = 1 - 0.8*math.Cos((hour-3)/24*2*math.Pi)
		case "nightzero":
			if hour < 6 {
				f = 0
			} else {
				f = 4.0 / 3
			}
		case "bursty":
			if left <= 0 { // five minutes at twelve times the rest, on average every half hour
				on = !on
				left = 150 + r.IntN(300)
				if !on {
					left = 600 + r.IntN(1800)
				}
			}
			left -= bin
			f = 0.35
			if on {
				f = 4
			}
		}
		shape[i] = f
		mean += f
	}
	mean /= float64(n)
	if s.Pattern != "bursty" {
		mean = 1
	}
	w.p, w.bad, w.total = make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range shape {
		shape[i] /= mean
	}
	low := math.Inf(1)
	sum := 0.0
	for i := range n {
		sum += shape[i]
		if i >= 180 {
			sum -= shape[i-180]
			low = math.Min(low, sum)
		}
	}
	w.minTraffic = low * s.Rate * bin

	cum := make([][3]float64, instances) // bad, good, total
	w.series = make([]instSeries, instances)
	w.probe = make([][]sample, regions)
	fewLeft := map[string]int{"onebad": 1, "fewbad": 3}[s.Fault]
	for i := range n {
		t := i * bin
		active := t >= w.start && t < w.end
		rate := s.Rate * shape[i]
		if active && s.Fault == "surge" && t < w.start+1800 {
			rate *= 20
		}
		if active && (w.kind == "gone" || w.kind == "dead") {
			rate = 0
		}
		bad := active && share > 0
		if s.Fault == "flap" && (t-w.start)/60%6 >= 2 {
			bad = false
		}
		reset := active && s.Fault == "resets" && (t-w.start)%1200 < bin
		if s.Fault == "deploy" && (t >= w.start-bin && t < w.start || t >= w.end && t < w.end+bin) {
			reset = true
		}
		if s.Fault == "dead60m" && t >= w.end && t < w.end+bin {
			reset = true
		}
		for k := range instances {
			if reset && (s.Fault != "resets" || (t-w.start)/1200%instances == k) {
				cum[k] = [3]float64{}
			}
			p := w.background
			if bad && (s.Fault != "oneinst" || k == 0) {
				p = share
			}
			total := poisson(r, rate*bin/instances)
			b := binomial(r, total, p)
			if active && fewLeft > 0 && total > b && t < w.start+600*60 {
				b++
				fewLeft--
			}
			w.p[i] += p / instances
			w.bad[i] += b
			w.total[i] += total
			cum[k][0] += b
			cum[k][1] += total - b
			cum[k][2] += total
		}
		if next := t + bin; next%s.Scrape == 0 {
			for k := range instances {
				ok := true
				if active && (s.Fault == "scrapehalf" || s.Fault == "halfblind") && k > 0 {
					ok = false // two of three
				}
				if active && w.kind == "dead" {
					ok = false
				}
				x := &w.series[k]
				x.bad = append(x.bad, sample{next, cum[k][0], ok})
				x.good = append(x.good, sample{next, cum[k][1], ok})
				x.total = append(x.total, sample{next, cum[k][2], ok})
			}
			if w.probes {
				for g := range regions {
					q := w.p[i]
					if active && (w.kind == "gone" || w.kind == "dead") {
						q = 1
					}
					v := 1.0
					if r.Float64() < q {
						v = 0
					}
					w.probe[g] = append(w.probe[g], sample{next, v, true})
				}
			}
		}
	}
	return w
}
