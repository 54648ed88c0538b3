package visitors

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/examples/fullstack/proof/client"
)

func TestDayHasItsRhythm(t *testing.T) {
	for _, noon := range []float64{0.1, 0.5, 0.9} {
		at := func(share float64) float64 { return activity(time.Duration(share*float64(Day)), noon) }
		require.InDelta(t, 1, at(noon), 0.001)
		require.InDelta(t, 1, at(noon+1), 0.001, "every day")
		require.InDelta(t, 0.25, at(noon+0.5), 0.001)
	}
}

// The most popular of eleven gets a third of the visits: 1 / (1 + 1/2 + ... + 1/11) = 0.331.
func TestZipf(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var counts [11]int
	const n = 100_000
	for range n {
		counts[zipf(r, len(counts))]++
	}
	require.InDelta(t, 0.331, float64(counts[0])/n, 0.01)
	require.InDelta(t, 0.331/11, float64(counts[10])/n, 0.005)
}

func TestAssets(t *testing.T) {
	page := []byte(`<link href="/static/style.css"><img src="/art/5.svg"><img src="/-/photos/x/v1"><a href="/read/cache">` +
		`<img src="https://elsewhere.example/static/x">`)
	require.Equal(t, []string{"/static/style.css", "/art/5.svg", "/-/photos/x/v1"}, assets(page, 8))
	require.Len(t, assets(page, 2), 2)
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Count: 1, Network: client.NewNetwork(client.Options{}), Chapters: []string{"/a"},
		Places: []Place{{Region: "r", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}}
	_, err := New(good)
	require.NoError(t, err)
	for field, spoil := range map[string]func(*Options){
		"Count":    func(o *Options) { o.Count = -1 },
		"Network":  func(o *Options) { o.Network = nil },
		"Chapters": func(o *Options) { o.Chapters = nil },
		"Places":   func(o *Options) { o.Places = []Place{{Region: "r"}} },
	} {
		bad := good
		spoil(&bad)
		_, err := New(bad)
		require.ErrorContains(t, err, "Options."+field)
	}
}
