package sqlite

import (
	"fmt"
	"strings"
)

// checkDeterministic refuses what could give another result when a replica runs the text again. It looks at words
// outside of strings, quoted names and comments, so a column may be called "random" if it is quoted.
func checkDeterministic(query string) error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrNondeterministic, what) }
	words := tokens(query)
	for i, w := range words {
		call := i+1 < len(words) && words[i+1] == "("
		switch w {
		case "current_timestamp", "current_time", "current_date":
			return bad(w)
		case "random", "randomblob", "last_insert_rowid", "changes", "total_changes", "sqlite_source_id",
			"load_extension":
			if call {
				return bad(w + "()")
			}
		case "date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff":
			if !call {
				continue
			}
			// Without arguments, or with 'now' among them, it asks the node's clock.
			if i+2 < len(words) && words[i+2] == ")" || w == "strftime" && argumentCount(words[i+1:]) < 2 {
				return bad(w + "() of now")
			}
			depth := 0
			for _, a := range words[i+1:] {
				switch {
				case a == "(":
					depth++
				case a == ")":
					depth--
				case strings.EqualFold(a, "'now'"), strings.EqualFold(a, "'localtime'"), strings.EqualFold(a, "'utc'"):
					return bad(w + "(" + a + ")")
				}
				if depth == 0 {
					break
				}
			}
		case "begin", "commit", "rollback", "savepoint", "release", "end":
			if i == 0 {
				return fmt.Errorf("sqlite: use a transaction of database/sql instead of %q", w)
			}
		case "attach", "detach", "vacuum", "pragma", "reindex", "analyze":
			if i == 0 {
				return fmt.Errorf("sqlite: %s cannot be replicated", w)
			}
		}
	}
	return nil
}

func argumentCount(words []string) int {
	depth, n := 0, 0
	for _, w := range words {
		switch w {
		case "(":
			depth++
		case ")":
			depth--
			if depth == 0 {
				return n
			}
		case ",":
			if depth == 1 {
				n++
			}
		default:
			if n == 0 {
				n = 1
			}
		}
	}
	return n
}

// tokens splits into lower-case words, single punctuation bytes, and strings with their quotes; quoted names and
// comments are left out.
func tokens(q string) (out []string) {
	for i := 0; i < len(q); {
		c := q[i]
		switch {
		case c == '-' && strings.HasPrefix(q[i:], "--"):
			for i < len(q) && q[i] != '\n' {
				i++
			}
		case c == '/' && strings.HasPrefix(q[i:], "/*"):
			end := strings.Index(q[i+2:], "*/")
			if end < 0 {
				return out
			}
			i += end + 4
		case c == '\'' || c == '"' || c == '`' || c == '[':
			end := c
			if c == '[' {
				end = ']'
			}
			j := i + 1
			for j < len(q) && (q[j] != end || j+1 < len(q) && q[j+1] == end && end != ']') {
				if q[j] == end {
					j++
				}
				j++
			}
			if c == '\'' {
				out = append(out, q[i:min(j+1, len(q))])
			} else {
				out = append(out, "\x00") // some name
			}
			i = j + 1
		case c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80:
			j := i
			for j < len(q) && (q[j] == '_' || q[j] >= 'a' && q[j] <= 'z' || q[j] >= 'A' && q[j] <= 'Z' || q[j] >= '0' &&
				q[j] <= '9' || q[j] >= 0x80) {
				j++
			}
			out = append(out, strings.ToLower(q[i:j]))
			i = j
		case c <= ' ':
			i++
		default:
			out = append(out, q[i:i+1])
			i++
		}
	}
	return out
}
