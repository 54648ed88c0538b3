package audience

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUniques(t *testing.T) {
	var sq float64
	for run := range 20 {
		var s Sketch
		for i := range 100_000 {
			s.Add(fmt.Sprintf("user-%d-%d", run, i))
		}
		e := float64(s.Estimate())/100_000 - 1
		sq += e * e
	}
	require.Less(t, math.Sqrt(sq/20), 0.012)

	// Two nodes that served the same users; a restart of one; a day change.
	a, b := NewUniques(nil), NewUniques(nil)
	sunday := time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	for i := range 10_000 {
		u := fmt.Sprintf("user-%d", i)
		a.Add(u, sunday)
		b.Add(u, sunday)
		if i < 1000 {
			b.Add(u, sunday.Add(2*time.Minute)) // Monday
		}
	}
	require.NoError(t, a.Import(b.Export()))
	again := NewUniques(nil)
	require.NoError(t, again.Import(a.Export()))
	require.InEpsilon(t, 10_000, again.At(sunday).Day, 0.02)
	monday := again.At(sunday.Add(2 * time.Minute))
	require.InEpsilon(t, 1000, monday.Day, 0.02)
	require.InEpsilon(t, 1000, monday.Week, 0.02, "a week begins on Monday")
	require.InEpsilon(t, 10_000, monday.Month, 0.02)
	require.ErrorIs(t, again.Import(map[string][]byte{"2026-03-01": []byte("nonsense")}), ErrSketch)
	require.Error(t, again.Import(map[string][]byte{"yesterday": nil}))
	for i := range 400 { // old days are forgotten
		again.Add("x", sunday.AddDate(0, 0, i))
	}
	require.LessOrEqual(t, len(again.Export()), keepDays+1)
}

func FuzzSketch(f *testing.F) {
	var s Sketch
	s.Add("a")
	b, _ := s.MarshalBinary()
	f.Add(b)
	f.Add([]byte("HLL1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Sketch
		if s.UnmarshalBinary(b) == nil {
			s.Estimate()
			s.Add("x")
		}
	})
}

func TestBusiness(t *testing.T) {
	m, err := metrics.New(metrics.Options{NoRuntime: true, Namespace: "shop"})
	require.NoError(t, err)
	b, err := NewBusiness(m, "sales")
	require.NoError(t, err)
	cents := b.Counter("revenue_cents_total", "Revenue in cents")
	cents.Add(1999)
	cents.Add(-5)
	require.Same(t, cents, b.Counter("revenue_cents_total", ""))
	page, _ := m.Scrape("")
	require.Contains(t, string(page), "shop_sales_revenue_cents_total 1999")
	_, err = NewBusiness(m, "sales")
	require.Error(t, err)
	require.Equal(t, map[string]int64{"revenue_cents_total": 1999}, b.Values())
}
