package audience

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// RetentionOptions configure Retention. The zero value is ready: twelve weekly cohorts in UTC.
type RetentionOptions struct {
	// Days of a period: 7 for weeks that begin on Monday, 1 for days; others count from a fixed Monday. Zero means 7.
	Days int
	// Keep is how many cohorts there are, and how many periods each is followed. Zero means 12, at most 100.
	Keep int
	// Location is the time zone in which days begin. Nil means UTC.
	Location *time.Location
}

// Retention tells how many of those who joined in one period came back in each later one. It is exact in what it
// counts, and estimates the numbers (see Sketch); no user is stored. Sketches of many nodes merge. All methods are safe
// for concurrent use.
type Retention struct {
	o RetentionOptions

	mu    sync.Mutex // guards cells
	cells map[cell]*Sketch
}

// cell is a cohort, numbered by its period, at an age in periods.
type cell struct{ cohort, age int }

// NewRetention returns an empty one.
func NewRetention(o RetentionOptions) (*Retention, error) {
	switch {
	case o.Days < 0 || o.Days > 366:
		return nil, fmt.Errorf("audience: RetentionOptions.Days is %d: want 1 to 366", o.Days)
	case o.Keep < 0 || o.Keep > 100:
		return nil, fmt.Errorf("audience: RetentionOptions.Keep is %d: want 1 to 100", o.Keep)
	}
	if o.Days == 0 {
		o.Days = 7
	}
	if o.Keep == 0 {
		o.Keep = 12
	}
	if o.Location == nil {
		o.Location = time.UTC
	}
	return &Retention{o: o, cells: map[cell]*Sketch{}}, nil
}

// epoch is a Monday.
var epoch = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)

func (r *Retention) period(t time.Time) int {
	y, m, d := t.In(r.o.Location).Date() // a day is a date, however many hours it has
	days := int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Sub(epoch) / (24 * time.Hour))
	if days < 0 {
		days -= r.o.Days - 1
	}
	return days / r.o.Days
}

func (r *Retention) start(period int) time.Time {
	d := epoch.AddDate(0, 0, period*r.o.Days)
	return time.Date(d.Year(), d.Month(), d.Day(), 0, 0, 0, 0, r.o.Location)
}

// Seen counts a user, who joined at one time, as active at another. What lies outside of the kept cohorts is ignored,
// and what lies more than 36 h in the future, because it would push the kept cohorts out.
func (r *Retention) Seen(user string, joined, at time.Time) {
	if at.After(time.Now().Add(tooEarly)) {
		return
	}
	c := cell{r.period(joined), 0}
	if c.age = r.period(at) - c.cohort; c.age < 0 || c.age >= r.o.Keep {
		return
	}
	h := xxhash.Sum64String(user)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.cells[c]
	if s == nil {
		s = &Sketch{}
		r.cells[c] = s
		r.forget()
	}
	s.AddHash(h)
}

// forget removes the cohorts that are too old beside the latest period. The caller holds r.mu.
func (r *Retention) forget() {
	latest := math.MinInt
	for c := range r.cells {
		latest = max(latest, c.cohort+c.age)
	}
	for c := range r.cells {
		if c.cohort <= latest-r.o.Keep {
			delete(r.cells, c)
		}
	}
}

// Cohort is those who joined in one period.
type Cohort struct {
	Start time.Time `json:"start"`
	// Active are the users of the cohort that were seen in its first period, the next, and so on; nothing for periods
	// that have not begun at the time asked for.
	Active []uint64 `json:"active"`
}

// Cohorts returns the table as of a time, the oldest cohort first.
func (r *Retention) Cohorts(now time.Time) []Cohort {
	last := r.period(now)
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []Cohort{}
	for p := last - r.o.Keep + 1; p <= last; p++ {
		c := Cohort{Start: r.start(p), Active: make([]uint64, last-p+1)}
		any := false
		for age := range c.Active {
			if s := r.cells[cell{p, age}]; s != nil {
				c.Active[age], any = s.Estimate(), true
			}
		}
		if any || len(out) > 0 {
			out = append(out, c)
		}
	}
	return out
}

// Names are the cells of the table at a time.
func (r *Retention) Names(now time.Time) (names []string) {
	last := r.period(now)
	for p := last - r.o.Keep + 1; p <= last; p++ {
		for age := range last - p + 1 {
			names = append(names, cell{p, age}.String())
		}
	}
	return names
}

func (c cell) String() string { return fmt.Sprintf("%d+%d", c.cohort, c.age) }

// Export returns the sketches by name, for any key-value store; Import merges what another node, or this one before a
// restart, exported.
func (r *Retention) Export() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string][]byte, len(r.cells))
	for c, s := range r.cells {
		out[c.String()], _ = s.MarshalBinary()
	}
	return out
}

// Import merges exported sketches. Nothing is merged when one of them is malformed; those that Seen would ignore are
// left out.
func (r *Retention) Import(cells map[string][]byte) error {
	parsed := make(map[cell]*Sketch, len(cells))
	for name, b := range cells {
		cohort, age, _ := strings.Cut(name, "+")
		var c cell
		var err1, err2 error
		c.cohort, err1 = strconv.Atoi(cohort)
		c.age, err2 = strconv.Atoi(age)
		s := &Sketch{}
		if err := errors.Join(err1, err2, s.UnmarshalBinary(b)); err != nil || c.age < 0 || c.age >= r.o.Keep {
			return fmt.Errorf("audience: importing cohort %q: %w", name, errors.Join(err, ErrSketch))
		}
		parsed[c] = s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.period(time.Now().Add(tooEarly))
	for c, s := range parsed {
		if c.cohort+c.age > last {
			continue
		}
		if r.cells[c] == nil {
			r.cells[c] = &Sketch{}
		}
		r.cells[c].Merge(s)
	}
	r.forget()
	return nil
}
