// Package warn logs what an operator should act on, without flooding the log during an outage, and keeps the counts
// that a Stats method reports beside it.
package warn

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Every is the shortest time between two records of one cause.
const Every = time.Minute

// maxCauses bounds the memory of a Log: beyond it, the oldest causes are forgotten and may be logged again sooner.
const maxCauses = 1024

// Log is a logger that writes at most one record per cause and minute. What it holds back is counted and stands as
// "repeated" in the next record of that cause. Its methods are safe for concurrent use.
type Log struct {
	logger *slog.Logger

	mu     sync.Mutex
	causes map[string]*cause
}

type cause struct {
	at   time.Time // of the last record
	held uint64    // occurrences since then
}

// New returns a Log that writes to l. Nil means slog.Default, as it is when a record is written.
func New(l *slog.Logger) *Log { return &Log{logger: l, causes: map[string]*cause{}} }

// Logger returns the logger that the Log writes to.
func (l *Log) Logger() *slog.Logger {
	if l.logger != nil {
		return l.logger
	}
	return slog.Default()
}

// Warn logs msg at WARN unless cause was logged within the last minute. A cause names what failed, not how: "probe
// db1", not the error's text. The arguments are those of slog.Logger.Warn.
func (l *Log) Warn(cause, msg string, args ...any) {
	held, ok := l.due(cause)
	if !ok {
		return
	}
	if held > 0 {
		args = append(args, slog.Uint64("repeated", held))
	}
	l.Logger().Log(context.Background(), slog.LevelWarn, msg, args...)
}

// Clear logs msg at INFO if cause was logged before, and forgets it: the next failure is logged at once. Call it when
// what failed works again.
func (l *Log) Clear(cause, msg string, args ...any) {
	l.mu.Lock()
	_, known := l.causes[cause]
	delete(l.causes, cause)
	l.mu.Unlock()
	if known {
		l.Logger().Log(context.Background(), slog.LevelInfo, msg, args...)
	}
}

func (l *Log) due(name string) (held uint64, ok bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.causes[name]
	if c == nil {
		if len(l.causes) >= maxCauses {
			l.forget(now)
		}
		l.causes[name] = &cause{at: now}
		return 0, true
	}
	if now.Sub(c.at) < Every {
		c.held++
		return 0, false
	}
	held, c.at, c.held = c.held, now, 0
	return held, true
}

// forget removes the causes that may be logged again anyway; if there are none, it removes all. It is called with l.mu
// held.
func (l *Log) forget(now time.Time) {
	for name, c := range l.causes {
		if now.Sub(c.at) >= Every {
			delete(l.causes, name)
		}
	}
	if len(l.causes) >= maxCauses {
		clear(l.causes)
	}
}

// Tally counts failures of one kind for a Stats method. The zero value is ready; its methods are safe for concurrent
// use.
type Tally struct {
	mu    sync.Mutex
	count uint64
	last  string
	at    time.Time
}

// Add counts err, which becomes the last error. A nil error is not counted.
func (t *Tally) Add(err error) {
	if err == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	t.last, t.at = err.Error(), time.Now()
}

// Load returns how many errors were counted, the text of the last one and its time; zero values if there was none.
func (t *Tally) Load() (count uint64, last string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count, t.last, t.at
}
