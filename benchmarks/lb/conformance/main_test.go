package main

import (
	"os"
	"testing"

	"github.com/tierkit/tierkit/benchmarks/lb/contender"
	"github.com/tierkit/tierkit/internal/test/proxytest"
)

func TestMain(m *testing.M) {
	contender.Main()
	os.Exit(m.Run())
}

// What ours does not do, with the reason; everything else must hold.
var known = map[string]map[string]string{
	"tierkit":       {"length-and-chunks": "net/http hides the length from handlers and keeps the connection; the front closes it"},
	"tierkit-front": nil,
}

func TestOursConforms(t *testing.T) {
	for name, excused := range known {
		results, err := table([]string{name}, 500)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range proxytest.Cases() {
			if err := results[name][i]; (err != nil) != (excused[c.Name] != "") {
				t.Errorf("%s: %s: %v (%s)", name, c.Name, err, c.About)
			}
		}
	}
}
