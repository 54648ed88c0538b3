package metrics_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/metrics/internal/expo"
)

// Every tag `metric:"name,kind,help"` in this module follows one form: a valid name, counter or gauge, counters end in
// "_total" and gauges do not, and the help begins with a capital and has no full stop.
func TestMetricTags(t *testing.T) {
	const root = ".."
	withTags := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == "testdata" || name == "benchmarks" || strings.HasPrefix(name, ".") &&
				name != ".." {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			f, ok := n.(*ast.Field)
			if !ok || f.Tag == nil {
				return true
			}
			text, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				return true
			}
			tag, ok := reflect.StructTag(text).Lookup("metric")
			if !ok {
				return true
			}
			rel, _ := filepath.Rel(root, filepath.Dir(path))
			withTags[filepath.ToSlash(rel)] = true
			if problem := checkTag(tag); problem != "" {
				t.Errorf("%v: %q: %s", fset.Position(f.Tag.Pos()), tag, problem)
			}
			return true
		})
		return nil
	})
	require.NoError(t, err)
	for _, pkg := range []string{"autoscale", "cache", "cdn", "geodns", "lb", "metrics", "metrics/host", "queue",
		"replica",
		"session", "shard"} {
		found := withTags[pkg]
		for dir := range withTags { // its Stats may stand in a part
			found = found || strings.HasPrefix(dir, pkg+"/")
		}
		require.True(t, found, "%s has no Stats with tags", pkg)
	}
}

func checkTag(tag string) string {
	name, rest, _ := strings.Cut(tag, ",")
	kind, help, _ := strings.Cut(rest, ",")
	switch {
	case !expo.ValidName(name):
		return "no valid name"
	case kind != "counter" && kind != "gauge":
		return "the kind is neither counter nor gauge"
	case (kind == "counter") != strings.HasSuffix(name, "_total"):
		return "counters, and only they, end in _total"
	case help == "":
		return "no help"
	case !unicode.IsUpper([]rune(help)[0]) && !unicode.IsDigit([]rune(help)[0]): // "1 when it is up"
		return "the help does not begin with a capital"
	case strings.HasSuffix(help, "."):
		return "the help ends with a full stop"
	}
	return ""
}
