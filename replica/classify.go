package replica

// grammar is what a dialect adds to the common rules.
type grammar struct {
	syntax syntax
	// sequences: what reads a sequence need not look like a call (MariaDB).
	sequences bool
	// volatile reports whether a call of this function (lower case, last part of a qualified name) must run on the
	// primary.
	volatile func(name []byte) bool
	// session reports whether a call of this function changes or reads state of the session.
	session func(name []byte) bool
}

// classify reads a query once. It answers ClassRead only for what it knows to be read-only.
func (g *grammar) classify(query string) Verdict {
	l := lexer{q: query, s: &g.syntax}
	var buf [64]byte
	t := l.next()
	for t.kind == tokPunct && t.b == '(' {
		t = l.next()
	}
	switch t.kind {
	case tokWord:
	case tokEnd:
		return Verdict{ClassWrite, "empty statement"}
	default:
		return Verdict{ClassWrite, "not understood"}
	}
	switch v := string(lower(&buf, t.text)); v {
	case "select", "values", "table", "with":
	case "set", "reset", "discard", "listen", "unlisten", "lock", "unlock", "prepare", "deallocate", "declare", "fetch",
		"close", "move", "begin", "start",
		"savepoint", "release", "rollback", "commit", "end", "abort", "use", "handler", "attach", "detach", "pragma",
		"load", "xa":
		return Verdict{ClassSession, "session state: " + v}
	case "create":
		for range 3 { // create [or replace] [global|local] temp[orary]
			if t = l.next(); t.kind != tokWord {
				break
			}
			switch string(lower(&buf, t.text)) {
			case "temp", "temporary":
				return Verdict{ClassSession, "temporary object"}
			}
		}
		return Verdict{ClassWrite, "create"}
	default:
		return Verdict{ClassWrite, "not a known read: " + shorten(t.text)}
	}
	// From here on one unquoted word can make it a write, wherever it stands. A column of that name costs a trip to the
	// primary.
	var prev token // the name before a parenthesis
	for {
		t = l.next()
		switch t.kind {
		case tokEnd:
			return Verdict{Class: ClassRead}
		case tokBroken:
			return Verdict{ClassWrite, "unterminated string or comment"}
		case tokHint:
			return Verdict{ClassWrite, "executable comment"}
		case tokVariable:
			return Verdict{ClassSession, "variable"}
		case tokPunct:
			switch t.b {
			case ';':
				for {
					t = l.next()
					if t.kind == tokEnd {
						return Verdict{Class: ClassRead}
					}
					if t.kind != tokPunct || t.b != ';' {
						return Verdict{ClassWrite, "more than one statement"}
					}
				}
			case '(':
				if v, bad := g.call(&buf, prev); bad {
					return v
				}
			case '=':
				// a := b assigns a session variable in MySQL; the @ before it was seen already
			}
			prev = token{}
		case tokWord:
			prev = t
			switch w := lower(&buf, t.text); string(w) {
			case "insert", "update", "delete", "merge", "into", "truncate", "call", "upsert", "returning",
				"sql_calc_found_rows":
				return Verdict{ClassWrite, "contains " + string(w)}
			case "lock":
				return Verdict{ClassWrite, "row lock"}
			case "for":
				mark := l.i
				n := l.next()
				if n.kind == tokWord {
					switch string(lower(&buf, n.text)) {
					case "update", "share", "no", "key":
						return Verdict{ClassWrite, "row lock"}
					}
				}
				l.i = mark
			case "value": // MariaDB: next value for s, previous value for s
				if g.sequences {
					mark := l.i
					n := l.next()
					if n.kind == tokWord && string(lower(&buf, n.text)) == "for" {
						return Verdict{ClassWrite, "sequence"}
					}
					l.i = mark
				}
			case "nextval", "currval": // Oracle's s.nextval, which MariaDB knows too
				if g.sequences {
					return Verdict{ClassWrite, "sequence"}
				}
			case "replace": // the statement of MySQL and SQLite; the function is a read
				mark := l.i
				n := l.next()
				l.i = mark
				if n.kind != tokPunct || n.b != '(' {
					return Verdict{ClassWrite, "contains replace"}
				}
			case "current_setting":
				return Verdict{ClassSession, "session setting"}
			}
		case tokQuoted:
			prev = t
		default:
			prev = token{}
		}
	}
}

// call judges the function named before a parenthesis.
func (g *grammar) call(buf *[64]byte, name token) (Verdict, bool) {
	if name.kind != tokWord && name.kind != tokQuoted {
		return Verdict{}, false
	}
	w := lower(buf, name.text) // quoted names are folded too: too careful at worst
	if w == nil {              // longer than any name: servers cut it, and then it may be another
		return Verdict{ClassWrite, "function with a very long name"}, true
	}
	if g.session != nil && g.session(w) {
		return Verdict{ClassSession, "session function " + string(w)}, true
	}
	if g.volatile != nil && g.volatile(w) {
		return Verdict{ClassWrite, "volatile function " + string(w)}, true
	}
	return Verdict{}, false
}

func shorten(s string) string {
	if len(s) > 20 {
		return s[:20]
	}
	return s
}
