// Package archtest holds every package of the module to the written list of what it may import, allowed.txt, and shows
// the chain of imports that breaks it. It has no code for other packages: its tests are the product.
package archtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Module is the path of our module; paths in allowed.txt are relative to it.
const Module = "github.com/tierkit/tierkit"

// rule is one line of allowed.txt: what a package may import itself. What it reaches through our own packages is
// allowed by their lines; see resolve.
type rule struct {
	own     []string // our packages, relative to Module
	modules []string // modules of others
}

// parseRules reads lines "package: own packages | modules". A package that ends in /... stands for those below it that
// have no line of their own; "*" allows any module, "..." any own package.
func parseRules(r io.Reader) (map[string]rule, error) {
	rules := map[string]rule{}
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		line, _, _ := strings.Cut(s.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, rest, ok := strings.Cut(line, ":")
		own, modules, ok2 := strings.Cut(rest, "|")
		if !ok || !ok2 {
			return nil, fmt.Errorf("archtest: line %d: want \"package: own packages | modules\"", n)
		}
		name = strings.TrimSpace(name)
		if _, twice := rules[name]; twice {
			return nil, fmt.Errorf("archtest: line %d: %s has a line already", n, name)
		}
		rules[name] = rule{strings.Fields(own), strings.Fields(modules)}
	}
	return rules, s.Err()
}

// ruleFor finds the line of a package: its own, or the nearest "/..." above it.
func ruleFor(rules map[string]rule, pkg string) (rule, bool) {
	if r, ok := rules[pkg]; ok {
		return r, true
	}
	for p := pkg; ; {
		if r, ok := rules[p+"/..."]; ok {
			return r, true
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return rule{}, false
		}
		p = p[:i]
	}
}

// resolve returns everything that pkg may reach: what its own line allows, and what the lines of the packages that it
// names allow.
func resolve(rules map[string]rule, pkg string) (rule, bool) {
	r, ok := ruleFor(rules, pkg)
	if !ok {
		return rule{}, false
	}
	all := rule{modules: slices.Clone(r.modules)}
	queue := slices.Clone(r.own)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if slices.Contains(all.own, name) {
			continue
		}
		all.own = append(all.own, name)
		if through, ok := ruleFor(rules, name); ok {
			queue = append(queue, through.own...)
			all.modules = append(all.modules, through.modules...)
		}
	}
	return all, true
}

// listed is what we need of "go list -json".
type listed struct {
	ImportPath string
	Imports    []string
	Standard   bool
	Module     *struct{ Path string }
}

// load lists all packages of the module in dir and everything they reach, tests not included.
func load(dir string) (map[string]listed, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Standard,Module", "./...")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("archtest: go list: %w", err)
	}
	pkgs := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("archtest: go list: %w", err)
		}
		pkgs[p.ImportPath] = p
	}
}

// violations walks everything pkg reaches, breadth first, and returns the shortest chain to each thing its rule does
// not allow.
func violations(pkgs map[string]listed, pkg string, r rule) []string {
	var bad []string
	from := map[string]string{pkg: ""}
	queue := []string{pkg}
	blamed := map[string]bool{}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		for _, imp := range pkgs[p].Imports {
			if _, seen := from[imp]; seen || pkgs[imp].Standard || imp == "C" || imp == "unsafe" {
				continue
			}
			from[imp] = p
			what, ok := "", true
			if rel, ours := strings.CutPrefix(imp, Module+"/"); ours {
				what, ok = rel, allows(r.own, rel)
			} else if m := pkgs[imp].Module; m != nil {
				what, ok = m.Path, slices.Contains(r.modules, "*") || slices.Contains(r.modules, m.Path)
			}
			if ok {
				queue = append(queue, imp)
			} else if !blamed[what] { // what lies behind a breach follows from it
				blamed[what] = true
				bad = append(bad, fmt.Sprintf("%s may not reach %s:\n\t%s", strings.TrimPrefix(pkg, Module+"/"), what,
					chain(from, imp)))
			}
		}
	}
	return bad
}

func allows(own []string, rel string) bool {
	for _, o := range own {
		if o == rel || o == "..." {
			return true
		}
		if base, tree := strings.CutSuffix(o, "/..."); tree && (rel == base || strings.HasPrefix(rel, base+"/")) {
			return true
		}
	}
	return false
}

func chain(from map[string]string, to string) string {
	var path []string
	for p := to; p != ""; p = from[p] {
		path = append(path, strings.TrimPrefix(p, Module+"/"))
	}
	slices.Reverse(path)
	return strings.Join(path, " -> ")
}
