package pgqueue

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// storable reports whether PostgreSQL's text can hold a string: UTF-8 without NUL.
func storable(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

var escapeElement = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// headerText spells a header as an array of keys and values, in PostgreSQL's own text form: an array of arrays of
// different lengths can't be a parameter.
func headerText(h map[string]string) (string, error) {
	if len(h) == 0 {
		return "{}", nil
	}
	var b strings.Builder
	b.WriteByte('{')
	for i, k := range slices.Sorted(maps.Keys(h)) {
		if !storable(k) || !storable(h[k]) {
			return "", fmt.Errorf("pgqueue: Message.Header[%q] is not text that PostgreSQL can store", k)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"%s","%s"`, escapeElement.Replace(k), escapeElement.Replace(h[k]))
	}
	b.WriteByte('}')
	return b.String(), nil
}

func headerOf(list []string) map[string]string {
	if len(list) == 0 {
		return nil
	}
	h := make(map[string]string, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		h[list[i]] = list[i+1]
	}
	return h
}
