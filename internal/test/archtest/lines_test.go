package archtest

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// columns is the longest line; a tab counts four.
const columns = 120

// wide returns the numbers of the lines that are longer than they may be. A line that a string literal touches may be
// longer: a literal is not cut for its length.
func wide(src []byte) (numbers []int) {
	set := token.NewFileSet()
	file := set.AddFile("", set.Base(), len(src))
	var s scanner.Scanner
	s.Init(file, src, func(token.Position, string) {}, scanner.ScanComments)
	literal := map[int]bool{}
	for {
		pos, t, lit := s.Scan()
		if t == token.EOF {
			break
		}
		if t == token.STRING {
			first := file.Line(pos)
			for n := range strings.Count(lit, "\n") + 1 {
				literal[first+n] = true
			}
		}
	}
	for i, l := range strings.Split(string(src), "\n") {
		if utf8.RuneCountInString(l)+3*strings.Count(l, "\t") > columns && !literal[i+1] &&
			!strings.Contains(l, "://") {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

// No line of code or comment is longer than 120 columns.
func TestLineLength(t *testing.T) {
	require.NoError(t, filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, n := range wide(src) {
			rel, _ := filepath.Rel(root(t), path)
			t.Errorf("%s:%d: longer than %d columns", rel, n, columns)
		}
		return nil
	}))
}

func TestWideLinesAreFound(t *testing.T) {
	long := strings.Repeat("x", columns)
	require.Equal(t, []int{2, 5}, wide([]byte("package p\n// "+long+"\nvar s = `\n"+long+"`\nvar "+long+" = 1\n")))
}
