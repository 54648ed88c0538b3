package audience_test

import (
	"fmt"
	"time"

	"github.com/tierkit/tierkit/metrics/audience"
)

func ExampleUniques() {
	day := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	a, b := audience.NewUniques(nil), audience.NewUniques(nil) // two servers
	for i := range 1000 {
		a.Add(fmt.Sprint("user-", i), day)
		b.Add(fmt.Sprint("user-", i), day) // the same users
	}
	_ = a.Import(b.Export())
	n := a.At(day).Day
	fmt.Println(n > 980 && n < 1020)
	// Output: true
}

func ExampleNewRetention() {
	r, err := audience.NewRetention(audience.RetentionOptions{})
	if err != nil {
		panic(err)
	}
	monday := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	for _, user := range []string{"ada", "ben", "eve"} {
		r.Seen(user, monday, monday)
	}
	r.Seen("ada", monday, monday.AddDate(0, 0, 7))
	for _, c := range r.Cohorts(monday.AddDate(0, 0, 8)) {
		fmt.Println(c.Start.Format(time.DateOnly), c.Active)
	}
	// Output:
	// 2026-03-02 [3 1]
	// 2026-03-09 [0]
}
