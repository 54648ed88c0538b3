package archtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func root(t *testing.T) string {
	dir, err := filepath.Abs("../../..")
	require.NoError(t, err)
	return dir
}

// touch looks at every source file, so that a change of any of them makes a cached result of these tests stale: what a
// child process reads, the go command does not see.
func touch(t *testing.T) {
	require.NoError(t, filepath.WalkDir(root(t), func(path string, d os.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, ".go") || d.Name() == "go.mod") {
			_, err = os.Stat(path)
		}
		return err
	}))
}

func readRules(t *testing.T) map[string]rule {
	f, err := os.Open("allowed.txt")
	require.NoError(t, err)
	defer f.Close()
	rules, err := parseRules(f)
	require.NoError(t, err)
	return rules
}

// Every package stays within its line of allowed.txt, and has one.
func TestAllowedImports(t *testing.T) {
	touch(t)
	rules := readRules(t)
	pkgs, err := load(root(t))
	require.NoError(t, err)
	found := 0
	for path, p := range pkgs {
		rel, ours := strings.CutPrefix(path, Module+"/")
		if !ours || p.Standard {
			continue
		}
		found++
		r, ok := resolve(rules, rel)
		if !ok {
			t.Errorf("allowed.txt has no line for %s", rel)
			continue
		}
		for _, v := range violations(pkgs, path, r) {
			t.Error(v)
		}
	}
	require.Greater(t, found, 5)
	for name := range rules {
		if base, tree := strings.CutSuffix(name, "/..."); !tree {
			require.Contains(t, pkgs, Module+"/"+base, "allowed.txt speaks of a package that does not exist")
		}
	}
}

// The checker itself: a breach far away is found, and told with its chain.
func TestViolationsShowTheChain(t *testing.T) {
	mod := func(p string) *struct{ Path string } { return &struct{ Path string }{p} }
	pkgs := map[string]listed{
		Module + "/lb":             {Imports: []string{Module + "/internal/a", "net/http"}, Module: mod(Module)},
		Module + "/internal/a":     {Imports: []string{"heavy.example/client/sub"}, Module: mod(Module)},
		"heavy.example/client/sub": {Imports: []string{"other.example/x"}, Module: mod("heavy.example/client")},
		"other.example/x":          {Module: mod("other.example/x")},
		"net/http":                 {Standard: true},
	}
	require.Equal(t, []string{"lb may not reach heavy.example/client:\n\tlb -> internal/a -> heavy.example/client/sub"},
		violations(pkgs, Module+"/lb", rule{own: []string{"internal/..."}}))
	require.Equal(t, []string{"lb may not reach internal/a:\n\tlb -> internal/a"},
		violations(pkgs, Module+"/lb", rule{modules: []string{"*"}}))
	require.Empty(t, violations(pkgs, Module+"/lb",
		rule{own: []string{"..."}, modules: []string{"heavy.example/client", "other.example/x"}}))
}

func TestParseRules(t *testing.T) {
	_, err := parseRules(strings.NewReader("# comment\nlb internal/a"))
	require.ErrorContains(t, err, "line 2")
	_, err = parseRules(strings.NewReader("lb: | \nlb: | "))
	require.ErrorContains(t, err, "line 2")
	rules, err := parseRules(strings.NewReader("examples/...: ... | *\ncache/rediscache: cache | r # why"))
	require.NoError(t, err)
	_, ok := ruleFor(rules, "examples/fullstack/drill/gate")
	require.True(t, ok)
	_, ok = ruleFor(rules, "cache")
	require.False(t, ok)
}

// A line names what a package imports itself; what that reaches is allowed by the lines of the packages it names.
func TestResolveFollowsLines(t *testing.T) {
	rules, err := parseRules(strings.NewReader(
		"lb: internal/a | x\ninternal/a: internal/b | y\ninternal/b: | z\nlb/front: lb | w"))
	require.NoError(t, err)
	r, ok := resolve(rules, "lb/front")
	require.True(t, ok)
	require.ElementsMatch(t, []string{"lb", "internal/a", "internal/b"}, r.own)
	require.ElementsMatch(t, []string{"x", "y", "z", "w"}, r.modules)
	_, ok = resolve(rules, "cache")
	require.False(t, ok)
}

// user makes a module that imports the given packages of ours, tidies and builds it, and returns its go.mod.
func user(t *testing.T, require_ []string, imports ...string) string {
	dir := t.TempDir()
	mod := "module example.com/service\n\ngo 1.26\n\nrequire " + Module + " v0.0.0\n\nreplace " + Module + " => " +
		root(t) + "\n"
	for _, r := range require_ {
		mod += "\nrequire " + r + "\n"
	}
	src := "package main\n\nimport (\n"
	for _, i := range imports {
		src += fmt.Sprintf("\t_ %q\n", i)
	}
	src += ")\n\nfunc main() {}\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(src), 0o600))
	for _, args := range [][]string{{"mod", "tidy"}, {"build", "-o", os.DevNull, "."}} {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), out)
	}
	out, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	return string(out)
}

// requires returns the modules that a go.mod requires, ours apart.
func requires(gomod string) []string {
	var ms []string
	for _, l := range strings.Split(gomod, "\n") {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(l), "require "))
		if len(f) >= 2 && strings.HasPrefix(f[1], "v") && f[0] != Module && strings.Contains(f[0], ".") {
			ms = append(ms, f[0])
		}
	}
	return ms
}

// A service that imports one core package gets the modules of that package's line and no others.
func TestUserGetsOnlyWhatThePackageNeeds(t *testing.T) {
	rules := readRules(t)
	for _, pkg := range core {
		t.Run(pkg, func(t *testing.T) {
			t.Parallel()
			allowed, ok := resolve(rules, pkg)
			require.True(t, ok)
			for _, m := range requires(user(t, nil, Module+"/"+pkg)) {
				require.Contains(t, allowed.modules, m)
			}
		})
	}
}

// A service that has older versions of the clients we adapt still builds when it adds one of our packages.
func TestUserWithOlderClients(t *testing.T) {
	for _, c := range olderClients {
		t.Run(c.module, func(t *testing.T) {
			t.Parallel()
			mod := user(t, []string{c.module + " " + c.version},
				append([]string{c.imports}, Module+"/lb", Module+"/"+c.adapter)...)
			require.Contains(t, mod, c.module)
		})
	}
}
