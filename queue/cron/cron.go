// Package cron publishes messages on a schedule, once each, however many servers run the same schedule: the message's
// ID is made of the schedule's name and the time it is due, and the queue drops repetitions.
//
// Times are those of a time zone, daylight saving included, as cron has always meant them: a time that a change of
// clocks leaves out is skipped with the hour it is in, and one that it repeats fires once, at its first occurrence,
// unless the schedule repeats within the hour anyway ("every 15 minutes" goes on every 15 minutes).
package cron

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/tierkit/tierkit/internal/backoff"
	"github.com/tierkit/tierkit/queue"
)

// Entry is one schedule.
type Entry struct {
	// Name is unique among the schedules of a topic, and must stay the same for as long as servers with it run.
	Name string
	// Spec is five fields (minute, hour, day of month, month, day of week) or @hourly, @daily, @every 10m and the like.
	Spec string
	// Location is the time zone. Default UTC.
	Location *time.Location
	// Message is published each time; its ID is set, and the header "Scheduled" to the time it was due (RFC 3339).
	Message queue.Message
	// CatchUp is how far back missed times are made up for when Run starts. Only as far as the queue's dedupe window,
	// or else other servers' messages are repeated. Default 0: none.
	CatchUp time.Duration
}

// Schedule is a set of entries.
type Schedule struct {
	q       *queue.Queue
	entries []entry
}

type entry struct {
	Entry
	schedule cron.Schedule
}

// HeaderScheduled carries the time at which a message was due.
const HeaderScheduled = "Scheduled"

// New checks the entries; [Schedule.Run] publishes.
func New(q *queue.Queue, entries ...Entry) (*Schedule, error) {
	if q == nil {
		return nil, errors.New("cron: queue is nil")
	}
	window := q.Caps().DedupeWindow
	if window <= 0 {
		return nil, fmt.Errorf("cron: the queue does not drop repetitions: %w", queue.ErrUnsupported)
	}
	s := &Schedule{q: q}
	names := map[[2]string]bool{}
	for _, e := range entries {
		if e.Name == "" || names[[2]string{e.Message.Topic, e.Name}] {
			return nil, fmt.Errorf("cron: Entry.Name %q is empty or not unique", e.Name)
		}
		names[[2]string{e.Message.Topic, e.Name}] = true
		if e.Location == nil {
			e.Location = time.UTC
		}
		if e.CatchUp < 0 || e.CatchUp > window {
			return nil, fmt.Errorf("cron: Entry.CatchUp of %q is %v, must be 0 to the dedupe window %v", e.Name,
				e.CatchUp, window)
		}
		p, err := cron.ParseStandard(e.Spec)
		if err != nil {
			return nil, fmt.Errorf("cron: Entry.Spec of %q: %w", e.Name, err)
		}
		s.entries = append(s.entries, entry{e, p})
	}
	return s, nil
}

// next is the first time after t. Constant intervals (@every) count from the Unix epoch, so that all servers agree.
func (e *entry) next(t time.Time) time.Time {
	if d, ok := e.schedule.(cron.ConstantDelaySchedule); ok {
		return t.Truncate(d.Delay).Add(d.Delay)
	}
	t = t.In(e.Location)
	for {
		n := e.schedule.Next(t)
		if n.IsZero() || !e.repeated(n) {
			return n
		}
		t = n
	}
}

// repeated reports whether n is the second occurrence of a wall time that a change of clocks repeats, of a schedule
// that names its hour.
func (e *entry) repeated(n time.Time) bool {
	spec, ok := e.schedule.(*cron.SpecSchedule)
	if !ok || spec.Hour&(1<<24-1) == 1<<24-1 {
		return false
	}
	_, offset := n.Zone()
	for _, back := range []time.Duration{30 * time.Minute, time.Hour, 2 * time.Hour} { // what zones have used
		b := n.Add(-back)
		if _, was := b.Zone(); was != offset && b.Hour() == n.Hour() && b.Minute() == n.Minute() && b.Day() == n.Day() {
			return true
		}
	}
	return false
}

// Run publishes until ctx ends, and then returns nil. Errors are reported (report may be nil), and the publish is tried
// again until the next time of its entry has come.
func (s *Schedule) Run(ctx context.Context, report func(error)) error {
	type due struct {
		e  *entry
		at time.Time
	}
	now := time.Now()
	next := make([]due, len(s.entries))
	for i := range s.entries {
		e := &s.entries[i]
		next[i] = due{e, e.next(now.Add(-e.CatchUp))}
	}
	failures := 0
	for {
		var first *due
		for i := range next {
			if d := &next[i]; !d.at.IsZero() && (first == nil || d.at.Before(first.at)) {
				first = d
			}
		}
		if first == nil { // nothing will ever be due
			<-ctx.Done()
			return nil
		}
		if backoff.Sleep(ctx, time.Until(first.at)) != nil {
			return nil
		}
		if err := s.publish(ctx, first.e, first.at); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if report != nil {
				report(err)
			}
			following := first.e.next(first.at)
			if following.IsZero() || time.Now().Before(following) {
				if backoff.Sleep(ctx, backoff.Policy{Base: 100 * time.Millisecond,
					Max: 10 * time.Second}.Delay(failures)) != nil {
					return nil
				}
				failures++
				continue
			}
		}
		failures = 0
		first.at = first.e.next(first.at)
	}
}

func (s *Schedule) publish(ctx context.Context, e *entry, at time.Time) error {
	m := e.Message
	m.ID = "cron " + e.Name + " " + at.UTC().Format(time.RFC3339)
	m.Header = map[string]string{HeaderScheduled: at.Format(time.RFC3339)}
	for k, v := range e.Message.Header {
		m.Header[k] = v
	}
	if _, err := s.q.Publish(ctx, m); err != nil {
		return fmt.Errorf("cron: %s: %w", e.Name, err)
	}
	return nil
}
