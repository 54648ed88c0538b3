package expo

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"iter"
	"slices"
	"strings"
)

// Page collects what one collector adds to a scrape. Pages are used again, so that a scrape allocates little. A Page is
// not safe for concurrent use.
type Page struct {
	format   Format
	families map[string]*Family
	used     []*Family
	constant Labels // of every sample that is added
	names    []string
	values   []string
}

// NewPage returns an empty page.
func NewPage() *Page { return &Page{families: map[string]*Family{}} }

// Reset empties the page and sets its format.
func (p *Page) Reset(f Format) {
	for _, f := range p.used {
		f.listed, f.buf = false, f.buf[:0]
	}
	p.format, p.used, p.constant, p.names, p.values = f, p.used[:0], Labels{}, nil, nil
}

// Format returns the format of the page.
func (p *Page) Format() Format { return p.format }

// Constant returns the labels that all samples get at present.
func (p *Page) Constant() (names, values []string) { return p.names, p.values }

// With adds constant labels to all samples that add adds.
func (p *Page) With(names, values []string, add func()) {
	constant, n, v := p.constant, p.names, p.values
	defer func() { p.constant, p.names, p.values = constant, n, v }()
	p.names, p.values = slices.Concat(n, names), slices.Concat(v, values)
	p.constant = NewLabels(p.names, p.values)
	add()
}

// Family returns the family of a series, to add samples to it. It is valid until the next Reset.
func (p *Page) Family(s *Series) *Family {
	f := p.families[s.Name]
	if f == nil {
		f = &Family{}
		p.families[s.Name] = f
	}
	if !f.listed {
		f.page, f.series, f.listed = p, *s, true
		p.used = append(p.used, f)
	}
	return f
}

// Each calls visit for each family that has samples, with its text or protobuf.
func (p *Page) Each(visit func(s *Series, samples []byte)) {
	for _, f := range p.used {
		if len(f.buf) > 0 {
			visit(&f.series, f.buf)
		}
	}
}

// Identities yields the name and labels of each sample in the text format.
func Identities(text []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for line := range bytes.Lines(text) {
			if i := bytes.LastIndexByte(line, ' '); i > 0 && !yield(line[:i]) {
				return
			}
		}
	}
}

// Family is the part of a page that one name has.
type Family struct {
	page    *Page
	series  Series
	listed  bool // in the page's used
	buf     []byte
	scratch []byte // of protobuf messages
}

// Join appends the families of all pages to b, in the order of their names, and returns it. All samples of a name stand
// together, whoever added them. Pages may be nil. A family whose kind differs from that of an earlier page is left out:
// no format can hold both.
func Join(b []byte, format Format, pages []*Page) []byte {
	var all []*Family
	for _, p := range pages {
		if p == nil {
			continue
		}
		for _, f := range p.used {
			if len(f.buf) > 0 {
				all = append(all, f)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *Family) int { return cmp.Compare(a.series.Name, b.series.Name) })
	for i := 0; i < len(all); {
		end := i + 1
		for end < len(all) && all[end].series.Name == all[i].series.Name {
			end++
		}
		same := slices.DeleteFunc(all[i:end:end], func(f *Family) bool { return f.series.Kind != all[i].series.Kind })
		if format == Protobuf {
			b = appendProtoFamily(b, same)
		} else {
			b = appendTextFamily(b, format, same)
		}
		i = end
	}
	if format == OpenMetrics {
		b = append(b, "# EOF\n"...)
	}
	return b
}

func appendTextFamily(b []byte, format Format, parts []*Family) []byte {
	s := &parts[0].series
	name, kind := s.Name, s.Kind.String()
	if format == OpenMetrics {
		switch {
		case s.Kind == Counter && strings.HasSuffix(name, "_total"):
			name = strings.TrimSuffix(name, "_total")
		case s.Kind == Counter || s.Kind == Untyped: // OpenMetrics has no counters of other names
			kind = "unknown"
		}
	}
	b = append(append(append(append(b, "# HELP "...), name...), ' '), escapeHelp(s.Help, format)...)
	b = append(append(append(append(append(b, "\n# TYPE "...), name...), ' '), kind...), '\n')
	for _, f := range parts {
		b = append(b, f.buf...)
	}
	return b
}

func escapeHelp(s string, format Format) string {
	if !strings.ContainsAny(s, "\\\n\"") {
		return s
	}
	s = strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "\n", `\n`)
	if format == OpenMetrics {
		s = strings.ReplaceAll(s, `"`, `\"`)
	}
	return s
}

// appendProtoFamily writes a MetricFamily, preceded by its length. The samples are already fields of it.
func appendProtoFamily(b []byte, parts []*Family) []byte {
	s := &parts[0].series
	size := bytesSize(len(s.Name)) + bytesSize(len(s.Help)) + 2
	for _, f := range parts {
		size += len(f.buf)
	}
	b = binary.AppendUvarint(b, uint64(size))
	b = appendBytes(appendBytes(b, 1, s.Name), 2, s.Help)
	b = append(b, 3<<3, byte(s.Kind))
	for _, f := range parts {
		b = append(b, f.buf...)
	}
	return b
}
