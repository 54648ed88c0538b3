package geodns

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Choice is one center in a tier: an index into the router's DCs and its share of the tier.
type Choice struct {
	DC     int
	Weight float64
}

// Policy orders the centers for a location, before health is looked at.
type Policy interface {
	// Tiers returns tiers of preference: the first tier with a healthy center serves; within a tier clients are shared
	// by weight, each client prefix always to the same center. It is called when a router is made, once per distinct
	// location, never per request, and must be a pure function: several name servers then agree on every answer.
	Tiers(at Location, dcs []DC) [][]Choice
}

// Nearest orders the centers by great-circle distance less their bias. An unknown location uses the order of the DCs.
func Nearest() Policy { return nearest{} }

type nearest struct{}

func (nearest) Tiers(at Location, dcs []DC) [][]Choice {
	order := make([]int, len(dcs))
	far := make([]float64, len(dcs))
	for i, d := range dcs {
		order[i] = i
		if at.HasCoords {
			far[i] = Distance(at.Lat, at.Lon, d.Lat, d.Lon) - d.Bias
		}
	}
	sort.SliceStable(order, func(x, y int) bool { return far[order[x]] < far[order[y]] })
	return singles(order)
}

func singles(order []int) [][]Choice {
	out := make([][]Choice, len(order))
	for i, dc := range order {
		out[i] = []Choice{{dc, 1}}
	}
	return out
}

// Distance is the great-circle distance in kilometres between two points in degrees (haversine, mean radius 6371 km).
func Distance(lat1, lon1, lat2, lon2 float64) float64 {
	const rad = math.Pi / 180
	s1, s2 := math.Sin((lat2-lat1)*rad/2), math.Sin((lon2-lon1)*rad/2)
	h := s1*s1 + math.Cos(lat1*rad)*math.Cos(lat2*rad)*s2*s2
	return 2 * 6371 * math.Asin(math.Sqrt(min(h, 1)))
}

// Failover uses the named centers in this order, wherever the client is. Names that no center has are passed over.
func Failover(names ...string) Policy { return failover(names) }

type failover []string

func (f failover) Tiers(_ Location, dcs []DC) [][]Choice {
	var order []int
	for _, n := range f {
		if i := slices.IndexFunc(dcs, func(d DC) bool { return d.Name == n }); i >= 0 {
			order = append(order, i)
		}
	}
	return singles(order)
}

// Weighted shares clients over all centers by DC.Weight: each client prefix goes to one of them, and moves only when
// that one fails or the weights change.
func Weighted() Policy { return weighted{} }

type weighted struct{}

func (weighted) Tiers(_ Location, dcs []DC) [][]Choice {
	var tier []Choice
	for i, d := range dcs {
		tier = append(tier, Choice{i, d.Weight})
	}
	return [][]Choice{tier}
}

// GeoMap chooses a policy by where the client is. Its keys, of which the most specific wins: "net:NAME" (Location.Net),
// "AS64500", "DE" (country), "continent:EU"; "" is for everybody else.
func GeoMap(m map[string]Policy) Policy { return geoMap(m) }

type geoMap map[string]Policy

func (m geoMap) Tiers(at Location, dcs []DC) [][]Choice {
	for _, key := range []string{"net:" + at.Net, "AS" + strconv.FormatUint(uint64(at.ASN), 10), at.Country,
		"continent:" + at.Continent, ""} {
		if p, ok := m[key]; ok && key != "net:" && key != "AS0" && key != "continent:" {
			return p.Tiers(at, dcs)
		}
	}
	return nil
}

// Chain appends the tiers of several policies; a center is used where it stands first.
func Chain(ps ...Policy) Policy { return chain(ps) }

type chain []Policy

func (c chain) Tiers(at Location, dcs []DC) (out [][]Choice) {
	seen := map[int]bool{}
	for _, p := range c {
		for _, tier := range p.Tiers(at, dcs) {
			var fresh []Choice
			for _, ch := range tier {
				if !seen[ch.DC] {
					seen[ch.DC] = true
					fresh = append(fresh, ch)
				}
			}
			if len(fresh) > 0 {
				out = append(out, fresh)
			}
		}
	}
	return out
}

// check refuses what a policy of the user's own may have got wrong.
func check(tiers [][]Choice, n int) error {
	for _, t := range tiers {
		for _, c := range t {
			if c.DC < 0 || c.DC >= n || !(c.Weight >= 0) || math.IsInf(c.Weight, 0) {
				return fmt.Errorf("geodns: RouterOptions.Policy: choice %+v of %d centers", c, n)
			}
		}
	}
	return nil
}

func tiersKey(tiers [][]Choice) string {
	var b strings.Builder
	for _, t := range tiers {
		for _, c := range t {
			fmt.Fprintf(&b, "%d:%g,", c.DC, c.Weight)
		}
		b.WriteByte('|')
	}
	return b.String()
}
