package guide

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/tierkit/tierkit/"

// imports are the packages that snippets use, by the name they use.
var imports = map[string]string{
	"context": "context", "errors": "errors", "fmt": "fmt", "html": "html", "http": "net/http", "log": "log",
	"netip": "net/netip", "sql": "database/sql", "time": "time", "stdlib": "github.com/jackc/pgx/v5/stdlib",
	"autoscale": module + "autoscale", "cache": module + "cache", "cdn": module + "cdn", "geodns": module + "geodns",
	"countries": module + "geodns/countries", "lb": module + "lb", "probe": module + "lb/probe",
	"metrics": module + "metrics", "slo": module + "metrics/slo", "dashboard": module + "metrics/dashboard",
	"queue": module + "queue", "replica": module + "replica", "session": module + "session", "shard": module + "shard",
}

// fixtures are what the snippets take from the service around them.
const fixtures = `package snippets

import (
	"context"
	"database/sql"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/tierkit/tierkit/queue"
)

var (
	ctx          context.Context
	db, dbA, dbB *sql.DB
	mux          *http.ServeMux
	cfg1, cfg2   *pgx.ConnConfig
	q            *queue.Queue
	pool         *queue.Pool
	w            http.ResponseWriter
)

type (
	Page  struct{}
	Photo struct{}
	User  struct{}
	Cart  struct{ Items int }
)

func readTitle(context.Context, *sql.DB, string) (string, error) { return "", nil }
func readUser(context.Context, string) (User, error)             { return User{}, nil }
func render(context.Context, string) (Page, error)               { return Page{}, nil }
func resize(context.Context, Photo) error                        { return nil }
`

var block = regexp.MustCompile("(?s)```go\n(.*?)```")

// snippet makes a file of one block: its statements in a function.
func snippet(name, code string) string {
	var b strings.Builder
	b.WriteString("package snippets\n\nimport (\n")
	used := []string{}
	for n := range imports {
		if regexp.MustCompile(`\b` + n + `\.[A-Z]`).MatchString(code) {
			used = append(used, n)
		}
	}
	slices.Sort(used)
	for _, n := range used {
		fmt.Fprintf(&b, "\t%s %q\n", n, imports[n])
	}
	fmt.Fprintf(&b, ")\n\nfunc _() {\n//line %s:1\n%s}\n", name, code)
	return b.String()
}

// Every block of Go in README and guide compiles against the packages as they are. Variables that a snippet declares
// and leaves to its reader are no error.
func TestSnippetsCompile(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	files, err := filepath.Glob("*.md")
	require.NoError(t, err)
	files = append(files, filepath.Join(root, "README.md"))
	dir := t.TempDir()
	overlay := map[string]string{}
	add := func(name, content string) {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		overlay[filepath.Join(root, "docs", "guide", "snippets", name)] = file
	}
	add("fixtures.go", fixtures)
	blocks := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		for i, m := range block.FindAllStringSubmatch(string(text), -1) {
			blocks++
			name := fmt.Sprintf("%s#%d", filepath.Base(f), i+1)
			add(fmt.Sprintf("s%d.go", blocks), snippet(name, m[1]))
		}
	}
	require.Greater(t, blocks, 15)
	for _, line := range build(t, root, dir, overlay, "./docs/guide/snippets") {
		if line != "" && !strings.HasPrefix(line, "#") && !strings.Contains(line, "declared and not used") &&
			!strings.Contains(line, "imported and not used") { // a comment speaks of it
			t.Error(line)
		}
	}
}

// build compiles packages with files that stand in none of their folders, and returns what the compiler says.
func build(t *testing.T, root, dir string, overlay map[string]string, packages ...string) []string {
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600))
	cmd := exec.Command("go", append([]string{"build", "-gcflags=-e", "-overlay", filepath.Join(dir, "overlay.json")},
		packages...)...)
	cmd.Dir = root
	out, _ := cmd.CombinedOutput()
	return strings.Split(string(out), "\n")
}

// Every complete program in a package's documentation compiles.
func TestProgramsInDocCompile(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	overlay := map[string]string{}
	var packages []string
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != "doc.go" {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var program strings.Builder
		for _, line := range strings.Split(string(src), "\n") {
			code, indented := strings.CutPrefix(line, "//\t")
			switch {
			case indented && (program.Len() > 0 || code == "package main"):
				program.WriteString(code + "\n")
			case line == "//" && program.Len() > 0:
				program.WriteString("\n")
			case program.Len() > 0: // the text goes on: one program for each doc.go
				code := program.String()
				program.Reset()
				if !strings.Contains(code, "func main()") {
					continue
				}
				rel, _ := filepath.Rel(root, filepath.Dir(path))
				name := "p" + strings.NewReplacer("/", "_", "-", "_").Replace(rel)
				file := filepath.Join(dir, name+".go")
				if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
					return err
				}
				overlay[filepath.Join(root, "docs", "guide", "programs", name, "main.go")] = file
				packages = append(packages, "./docs/guide/programs/"+name)
			}
		}
		return nil
	}))
	require.Greater(t, len(packages), 5)
	for _, line := range build(t, root, dir, overlay, packages...) {
		if line != "" {
			t.Error(line)
		}
	}
}
