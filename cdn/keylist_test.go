package cdn

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestKeyListAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l keyList
		model := map[string]bool{}
		key := rapid.StringMatching(`[ab]{0,3}/[a-c]{0,4}`)
		for range rapid.IntRange(0, 3000).Draw(t, "steps") {
			k := key.Draw(t, "key")
			if rapid.IntRange(0, 2).Draw(t, "op") == 0 {
				l.remove(k)
				delete(model, k)
			} else {
				l.add(k)
				model[k] = true
			}
		}
		prefix := rapid.StringMatching(`[ab]{0,2}/?[a-c]{0,2}`).Draw(t, "prefix")
		var want []string
		for k := range model {
			if strings.HasPrefix(k, prefix) {
				want = append(want, k)
			}
		}
		slices.Sort(want)
		if got := l.prefixed(prefix); !slices.Equal(got, want) {
			t.Fatalf("%q: %q, want %q", prefix, got, want)
		}
	})
}

func TestKeyListStaysOrdered(t *testing.T) {
	var l keyList
	for i := range 20000 {
		l.add(fmt.Sprintf("k%05d", i*7919%20000))
	}
	require.Len(t, l.prefixed(""), 20000)
	require.Len(t, l.prefixed("k1234"), 10)
	for i := range 20000 {
		if i%100 != 0 {
			l.remove(fmt.Sprintf("k%05d", i))
		}
	}
	require.Len(t, l.prefixed(""), 200)
	require.Less(t, len(l.blocks), 10, "blocks of few are joined")
	require.True(t, slices.IsSorted(l.prefixed("")))
}
