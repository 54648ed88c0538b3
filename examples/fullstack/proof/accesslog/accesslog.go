// Package accesslog reads web server logs in the combined format and tells what site they were written by: which pages
// and files it has, and how large they are.
package accesslog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// Entry is one line of a log.
type Entry struct {
	Client netip.Addr
	At     time.Time
	Method string
	// Path is the request target as logged, query included; it begins with a slash.
	Path   string
	Status int
	Size   int64
	Agent  string
}

// Log is what was read.
type Log struct {
	Entries []Entry
	// Malformed counts the lines that are no entries; FirstMalformed is the number of the first one, 0 for none.
	Malformed, FirstMalformed int
}

// maxLine bounds a line, so that a binary file given by mistake can't fill the memory.
const maxLine = 1 << 16

// ErrEmpty is returned for input without a single entry.
var ErrEmpty = errors.New("accesslog: no line is in the combined log format")

// Read parses a log. Malformed lines are counted, not fatal.
func Read(r io.Reader) (*Log, error) {
	l := &Log{}
	br := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) { // skip the rest of an overlong line
			_, err = br.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("accesslog: line %d: %w", n, err)
		}
		text := strings.TrimRight(string(line), "\r\n")
		if text != "" || long {
			if e, ok := parse(text); ok && !long {
				l.Entries = append(l.Entries, e)
			} else {
				l.Malformed++
				if l.FirstMalformed == 0 {
					l.FirstMalformed = n
				}
			}
		}
		if err != nil {
			break
		}
	}
	if len(l.Entries) == 0 {
		return l, ErrEmpty
	}
	return l, nil
}

// parse reads `host ident user [time] "method target protocol" status size "referer" "agent"`.
func parse(s string) (e Entry, ok bool) {
	host, rest, ok1 := strings.Cut(s, " ")
	_, rest, ok2 := strings.Cut(rest, "[")
	at, rest, ok3 := strings.Cut(rest, `] "`)
	request, rest, ok4 := strings.Cut(rest, `" `)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return e, false
	}
	var err error
	if e.Client, err = netip.ParseAddr(host); err != nil || e.Client.Zone() != "" {
		return e, false
	}
	e.Client = e.Client.Unmap()
	if e.At, err = time.Parse("02/Jan/2006:15:04:05 -0700", at); err != nil {
		return e, false
	}
	f := strings.Fields(request)
	if len(f) != 3 || !strings.HasPrefix(f[1], "/") || !strings.HasPrefix(f[2], "HTTP/") {
		return e, false
	}
	switch e.Method = f[0]; e.Method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH":
	default:
		return e, false
	}
	e.Path = f[1]
	if _, err := url.ParseRequestURI(e.Path); err != nil {
		return e, false
	}
	numbers, quoted, _ := strings.Cut(rest, ` "`)
	f = strings.Fields(numbers)
	if len(f) != 2 {
		return e, false
	}
	if e.Status, err = strconv.Atoi(f[0]); err != nil || e.Status < 100 || e.Status > 599 {
		return e, false
	}
	if f[1] != "-" {
		if e.Size, err = strconv.ParseInt(f[1], 10, 64); err != nil || e.Size < 0 || e.Size > 1<<40 {
			return e, false
		}
	}
	if _, agent, ok := strings.Cut(quoted, `" "`); ok {
		e.Agent = strings.TrimSuffix(agent, `"`)
	}
	return e, true
}

// Kind says what is served at a path.
type Kind uint8

const (
	// Missing is what the log knows only as 404.
	Missing Kind = iota
	// Page is made by the site from the database.
	Page
	// File is an object with a fixed content.
	File
	// Redirect leads to another path of the site.
	Redirect
	// Forbidden is what the log knows only as 403.
	Forbidden
)

// Object is what the site serves at a path.
type Object struct {
	Path string // without query
	Kind Kind
	Size int64
	To   string // of a Redirect
}

// Catalog is the site that wrote a log.
type Catalog map[string]Object

// Site derives the catalog from the statuses in the log: the honest 404s of the log stay 404s.
func (l *Log) Site() Catalog {
	c := Catalog{}
	for _, e := range l.Entries {
		p := Clean(e.Path)
		o := c[p]
		o.Path = p
		switch {
		case e.Status == 200 || e.Status == 206 || e.Status == 304 || e.Status == 416:
			o.Kind, o.To = kindOf(p), ""
			if e.Status == 200 {
				o.Size = max(o.Size, e.Size)
			}
		case e.Status/100 == 3 && o.Kind == Missing:
			o.Kind, o.To = Redirect, p+"/"
			if strings.HasSuffix(p, "/") {
				o.To = strings.TrimRight(p, "/")
			}
		case e.Status == 403 && o.Kind == Missing:
			o.Kind = Forbidden
		}
		c[p] = o
	}
	for p, o := range c {
		if o.Kind == Missing {
			delete(c, p)
		} else if (o.Kind == Page || o.Kind == File) && o.Size == 0 {
			o.Size = 2048 // known only by its 304s
			c[p] = o
		} else if o.Kind == Redirect && o.To == "" {
			o.To = "/"
			c[p] = o
		}
	}
	return c
}

// Clean returns the path of a logged target without its query.
func Clean(target string) string {
	p, _, _ := strings.Cut(target, "?")
	return p
}

func kindOf(p string) Kind {
	switch strings.ToLower(path.Ext(p)) {
	case "", ".html", ".xhtml", ".htm", ".php":
		return Page
	}
	if strings.HasSuffix(p, "/") {
		return Page
	}
	return File
}
