package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func tierq(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func ok(t *testing.T, args ...string) string {
	code, out, errs := tierq(t, "", args...)
	require.Zero(t, code, errs)
	require.Empty(t, errs)
	return out
}

func TestCommands(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "q")
	q, err := queue.Open(dir, queue.Options{SegmentBytes: 1 << 20})
	require.NoError(t, err)
	g, err := q.Group(t.Context(), "mail", "workers", queue.GroupOptions{})
	require.NoError(t, err)
	for _, b := range []string{"one", "two \x1b[31mred", "three"} {
		_, err := q.Publish(t.Context(), queue.Message{Topic: "mail", Kind: "welcome", ID: b[:3],
			Header: map[string]string{"trace": "7"}, Body: []byte(b)})
		require.NoError(t, err)
	}
	ds, err := g.Fetch(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, ds[0].Term(t.Context(), "no such\x07 user"))
	code, _, errs := tierq(t, "", "stats", dir)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "in use")
	require.NoError(t, q.Close())

	require.Regexp(t, `"mail" +"workers" +2 +0 +1 +`, ok(t, "stats", dir))
	require.Contains(t, ok(t, "check", dir), "3 messages, 1 of them dead letters")
	peeked := ok(t, "peek", dir, "mail", "workers")
	require.Contains(t, peeked, `"two \x1b[31mred"`, "escaped")
	require.Contains(t, peeked, `kind="welcome" id="two" "trace":"7"`)
	require.NotContains(t, peeked, "\x1b")
	require.Equal(t, 2, strings.Count(ok(t, "peek", "-n", "1", dir, "mail", "workers"), "\n"), "a head and one line")
	require.Contains(t, ok(t, "dead", dir, "mail", "workers"), `"no such\a user"`)

	file := filepath.Join(root, "snapshot.tar")
	ok(t, "snapshot", "-o", file, dir)
	code, _, errs = tierq(t, "", "snapshot", "-o", file, dir)
	require.Equal(t, 1, code, "an existing file is not overwritten")
	require.Contains(t, errs, "exists")
	ok(t, "restore", "-i", file, filepath.Join(root, "copy"))
	require.Contains(t, ok(t, "check", filepath.Join(root, "copy")), "3 messages")

	require.Contains(t, ok(t, "redrive", dir, "mail", "workers"), "1 dead letters")
	code, out, _ := tierq(t, "no\n", "purge", dir, "mail", "workers")
	require.Equal(t, 1, code)
	require.Contains(t, out, "Type yes")
	code, out, _ = tierq(t, "yes\n", "purge", dir, "mail", "workers")
	require.Zero(t, code)
	require.Contains(t, out, "3 messages purged")
	require.Contains(t, ok(t, "purge", "-dead", "-yes", filepath.Join(root, "copy"), "mail", "workers"),
		"1 messages purged")

	// Damage is found.
	segments, err := filepath.Glob(filepath.Join(root, "copy", "*.log"))
	require.NoError(t, err)
	for _, name := range segments {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		if i := bytes.Index(b, []byte("three")); i >= 0 {
			b[i] ^= 1
			require.NoError(t, os.WriteFile(name, b, 0o600))
		}
	}
	code, out, errs = tierq(t, "", "check", filepath.Join(root, "copy"))
	require.Equal(t, 1, code)
	require.Contains(t, out, "damaged: ")
	require.Contains(t, errs, "damaged")
}

func TestWrongUse(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{}, {"explode"}, {"stats"}, {"peek", dir}, {"peek", "-n", "0", dir, "a", "b"},
		{"stats", "-x", dir}} {
		code, _, errs := tierq(t, "", args...)
		require.Equal(t, 2, code, args)
		require.Contains(t, errs, "Usage", args)
	}
	for _, args := range [][]string{{"-h"}, {"help"}, {"peek", "-h"}} {
		code, _, errs := tierq(t, "", args...)
		require.Zero(t, code, args)
		require.Contains(t, errs, "Usage", args)
	}
	code, _, errs := tierq(t, "", "peek", dir, "a", "b")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "no queue")
	code, _, _ = tierq(t, "", "stats", filepath.Join(dir, "missing"))
	require.Equal(t, 1, code)
	_, err := os.Stat(filepath.Join(dir, "missing"))
	require.ErrorIs(t, err, os.ErrNotExist, "looking creates nothing")
	q, err := queue.Open(filepath.Join(dir, "q"), queue.Options{SegmentBytes: 1 << 20})
	require.NoError(t, err)
	_, err = q.Group(t.Context(), "mail", "workers", queue.GroupOptions{})
	require.NoError(t, err)
	require.NoError(t, q.Close())
	code, _, errs = tierq(t, "", "peek", filepath.Join(dir, "q"), "mial", "workers")
	require.Equal(t, 1, code)
	require.Contains(t, errs, `"mail" "workers"`, "says which there are")
}
