package accesslog

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const good = `83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a/b.png?x=1 HTTP/1.1" 200 203023 "http://ref/" "Mozilla/5.0 (X11)"`

func TestMalformedLinesAreCounted(t *testing.T) {
	in := strings.Join([]string{
		good,
		"",
		"not a log line",
		strings.Replace(good, "83.149.9.216", "host.example", 1),
		strings.Replace(good, "200 203023", "999 1", 1),
		strings.Replace(good, "GET /a", "GET a", 1),
		strings.Replace(good, "17/May", "17/Foo", 1),
		strings.Replace(good, "GET", "\x16\x03\x01", 1),
		"x" + strings.Repeat("y", 3*maxLine),
		strings.Replace(good, "203023", "-", 1) + "\r",
	}, "\n")
	l, err := Read(strings.NewReader(in))
	require.NoError(t, err)
	require.Len(t, l.Entries, 2)
	require.Equal(t, 7, l.Malformed)
	require.Equal(t, 3, l.FirstMalformed)
	require.Equal(t, "Mozilla/5.0 (X11)", l.Entries[0].Agent)
	require.EqualValues(t, 203023, l.Entries[0].Size)
	require.Zero(t, l.Entries[1].Size)
	_, err = Read(strings.NewReader("\x00\x01binary\n"))
	require.ErrorIs(t, err, ErrEmpty)
}

func TestSite(t *testing.T) {
	line := func(path, status, size string) string {
		return strings.NewReplacer("/a/b.png?x=1", path, "200 203023", status+" "+size).Replace(good)
	}
	l, err := Read(strings.NewReader(strings.Join([]string{
		line("/p", "404", "9"), line("/p", "200", "10"), line("/p?q", "200", "12"), line("/never", "404", "1"),
		line("/dir", "301", "1"),
		line("/f.css", "304", "-"), line("/secret", "403", "1"), line("/doc.html", "200", "5"),
	}, "\n")))
	require.NoError(t, err)
	require.Equal(t, Catalog{
		"/p":        {Path: "/p", Kind: Page, Size: 12},
		"/dir":      {Path: "/dir", Kind: Redirect, To: "/dir/"},
		"/f.css":    {Path: "/f.css", Kind: File, Size: 2048},
		"/secret":   {Path: "/secret", Kind: Forbidden},
		"/doc.html": {Path: "/doc.html", Kind: Page, Size: 5},
	}, l.Site())
}

func TestRealLog(t *testing.T) {
	f, err := os.Open("../../../../shared/data/access.log")
	if err != nil {
		t.Skip("needs ../shared/data/access.log")
	}
	defer f.Close()
	l, err := Read(f)
	require.NoError(t, err)
	require.Len(t, l.Entries, 10_000)
	require.Zero(t, l.Malformed)
	c := l.Site()
	require.Greater(t, len(c), 1000)
}

func FuzzRead(f *testing.F) {
	f.Add(good)
	f.Fuzz(func(t *testing.T, s string) {
		if l, err := Read(strings.NewReader(s)); err == nil {
			l.Site()
		}
	})
}
