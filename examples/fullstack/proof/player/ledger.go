// Package player plays a web server's log against the full stack as its clients would: it resolves names, keeps cookies
// and validators, tries the next address when a connection fails, and repeats writes whose outcome is unknown. What it
// was promised stands in its ledger, against which the books are checked in the end.
package player

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
)

// Kinds of entries in the ledger.
const (
	KindView   = "view"   // ID of the view, Path of the page
	KindWrite  = "write"  // ID of the write, Path its kind
	KindPhoto  = "photo"  // ID of an acknowledged upload
	KindDelete = "delete" // ID of a post whose deletion was acknowledged
)

// line is one line of the ledger's file. An intent is noted before its request is sent, so that after a kill of the
// whole process the next run knows what may have happened without having been acknowledged.
type line struct {
	Kind string `json:"k"`
	ID   string `json:"i"`
	Path string `json:"p,omitempty"`
	Ack  bool   `json:"a,omitempty"`
}

// Ledger is what clients asked for and what they were promised. It is safe for concurrent use. Lines reach the
// operating system before Intend and Ack return: they survive a kill of the process.
type Ledger struct {
	mu   sync.Mutex
	f    *os.File
	open map[line]bool // asked, outcome unknown
	done map[line]bool // acknowledged
	err  error
}

// OpenLedger reads what earlier runs wrote to the file, and goes on there.
func OpenLedger(name string) (*Ledger, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("player: ledger: %w", err)
	}
	l := &Ledger{f: f, open: map[line]bool{}, done: map[line]bool{}}
	s := bufio.NewScanner(f)
	for s.Scan() {
		var e line
		if json.Unmarshal(s.Bytes(), &e) == nil { // the last line may be cut
			l.apply(e)
		}
	}
	if err := s.Err(); err != nil {
		f.Close()
		return nil, fmt.Errorf("player: ledger: %w", err)
	}
	if _, err := f.WriteString("\n"); err != nil { // ends a cut line
		f.Close()
		return nil, fmt.Errorf("player: ledger: %w", err)
	}
	return l, nil
}

func (l *Ledger) apply(e line) {
	ack := e.Ack
	e.Ack = false
	if ack {
		delete(l.open, e)
		l.done[e] = true
	} else if !l.done[e] {
		l.open[e] = true
	}
}

func (l *Ledger) add(es ...line) {
	var buf []byte
	for _, e := range es {
		b, _ := json.Marshal(e)
		buf = append(append(buf, b...), '\n')
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.f.Write(buf); err != nil && l.err == nil {
		l.err = fmt.Errorf("player: ledger: %w", err)
	}
	for _, e := range es {
		l.apply(e)
	}
}

// Intend notes what is about to be asked for, Ack what was promised.
func (l *Ledger) Intend(kind, id, path string) { l.add(line{Kind: kind, ID: id, Path: path}) }

// Ack notes a promise.
func (l *Ledger) Ack(kind, id, path string) { l.add(line{Kind: kind, ID: id, Path: path, Ack: true}) }

// Promises are the contents of the ledger.
type Promises struct {
	Views      map[string]int // acknowledged, per page
	OpenViews  map[string]int // outcome unknown, per page
	ViewsTotal int
	Writes     []string
	Photos     []string
	Deleted    []string
}

// Promises returns what was promised so far, and the first error of the file.
func (l *Ledger) Promises() (Promises, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := Promises{Views: map[string]int{}, OpenViews: map[string]int{}}
	for e := range l.done {
		switch e.Kind {
		case KindView:
			p.Views[e.Path]++
			p.ViewsTotal++
		case KindWrite:
			p.Writes = append(p.Writes, e.ID)
		case KindPhoto:
			p.Photos = append(p.Photos, e.ID)
		case KindDelete:
			p.Deleted = append(p.Deleted, e.ID)
		}
	}
	for e := range l.open {
		if e.Kind == KindView {
			p.OpenViews[e.Path]++
		}
	}
	return p, l.err
}

// unknownViews returns the views whose outcome no run has learned.
func (l *Ledger) unknownViews() []view {
	l.mu.Lock()
	defer l.mu.Unlock()
	var vs []view
	for e := range l.open {
		if e.Kind == KindView {
			vs = append(vs, view{e.ID, e.Path})
		}
	}
	return vs
}

// Close closes the file.
func (l *Ledger) Close() error { return l.f.Close() }
