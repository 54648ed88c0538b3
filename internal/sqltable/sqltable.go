// Package sqltable is what stores that keep one table in PostgreSQL, MariaDB/MySQL or SQLite have in common: which
// names a table may have, and statements that are written once for all three.
package sqltable

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var name = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// CheckName returns an error for a name that could not stand in a statement without quotes.
func CheckName(table string) error {
	if !name.MatchString(table) {
		return fmt.Errorf("table %q: a name is letters, digits and underscores", table)
	}
	return nil
}

// Statement puts the table's name in for {t} and, if numbered, PostgreSQL's $1, $2 ... in for the question marks. The
// statements are the program's own constants: a question mark in a literal or comment would be taken for a placeholder.
func Statement(q, table string, numbered bool) string {
	q = strings.ReplaceAll(q, "{t}", table)
	if !numbered {
		return q
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(q, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}
