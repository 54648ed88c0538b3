package replica

// syntax says how one dialect's SQL reads.
type syntax struct {
	dollarQuotes    bool // $tag$ ... $tag$ (PostgreSQL)
	nestedComments  bool // /* /* */ */ (PostgreSQL)
	escapeStrings   bool // E'..\'..' (PostgreSQL)
	backslash       bool // '..\'..' in every string (MySQL)
	hashComments    bool // # to the end of the line (MySQL)
	dashNeedsSpace  bool // "--" begins a comment only before white space (MySQL: 1--1 is 2)
	quotesAreString bool // "..." is a string (MySQL), else an identifier
	brackets        bool // [identifier] (SQLite)
}

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokWord
	tokQuoted   // a quoted identifier
	tokString   // also numbers: nothing in it matters
	tokPunct    // one byte
	tokHint     // an executable comment of MySQL: /*! ... */
	tokVariable // @name of MySQL
	tokBroken   // an unterminated string or comment
)

type token struct {
	kind tokenKind
	text string // for words and quoted identifiers without the quotes
	b    byte   // for tokPunct
}

// lexer walks a query once, without allocating.
type lexer struct {
	q string
	i int
	s *syntax
}

func (l *lexer) next() token {
	q, n := l.q, len(l.q)
	for l.i < n {
		c := q[l.i]
		switch {
		case c <= ' ':
			l.i++
		case c == '-' && l.i+1 < n && q[l.i+1] == '-' && (!l.s.dashNeedsSpace || l.i+2 >= n || q[l.i+2] <= ' '):
			l.skipLine()
		case c == '#' && l.s.hashComments:
			l.skipLine()
		case c == '/' && l.i+1 < n && q[l.i+1] == '*':
			if l.s.hashComments && l.i+2 < n && (q[l.i+2] == '!' || q[l.i+2] == 'M' && l.i+3 < n && q[l.i+3] == '!') {
				return token{kind: tokHint} // the server executes what is inside
			}
			if !l.skipComment() {
				return token{kind: tokBroken}
			}
		case c == '\'':
			return l.quoted('\'', l.s.backslash, tokString)
		case c == '"':
			if l.s.quotesAreString {
				return l.quoted('"', l.s.backslash, tokString)
			}
			return l.quoted('"', false, tokQuoted)
		case c == '`' && !l.s.dollarQuotes:
			return l.quoted('`', false, tokQuoted)
		case c == '[' && l.s.brackets:
			return l.quoted(']', false, tokQuoted)
		case c == '$' && l.s.dollarQuotes && l.i+1 < n && (q[l.i+1] == '$' || wordStart(q[l.i+1])):
			if t, ok := l.dollar(); ok {
				return t
			}
		case wordStart(c):
			from := l.i
			for l.i < n && (wordStart(q[l.i]) || digit(q[l.i]) || q[l.i] == '$') {
				l.i++
			}
			if l.s.escapeStrings && l.i-from == 1 && c|0x20 == 'e' && l.i < n && q[l.i] == '\'' {
				return l.quoted('\'', true, tokString)
			}
			return token{kind: tokWord, text: q[from:l.i]}
		case digit(c):
			for l.i < n && (wordStart(q[l.i]) || digit(q[l.i]) || q[l.i] == '.') {
				l.i++
			}
			return token{kind: tokString}
		case c == '@' && l.s.hashComments:
			if l.i+1 < n && q[l.i+1] == '@' { // a system variable: its scope may be the session's
				l.i += 2
				return token{kind: tokVariable}
			}
			l.i++
			return token{kind: tokVariable}
		default:
			l.i++
			return token{kind: tokPunct, b: c}
		}
	}
	return token{}
}

func (l *lexer) skipLine() {
	for l.i < len(l.q) && l.q[l.i] != '\n' {
		l.i++
	}
}

func (l *lexer) skipComment() bool {
	depth := 1
	for l.i += 2; l.i < len(l.q); {
		two := l.i+1 < len(l.q)
		switch {
		case two && l.q[l.i] == '*' && l.q[l.i+1] == '/':
			l.i += 2
			if depth--; depth == 0 {
				return true
			}
		case two && l.s.nestedComments && l.q[l.i] == '/' && l.q[l.i+1] == '*':
			depth++
			l.i += 2
		default:
			l.i++
		}
	}
	return false
}

// quoted reads from the opening quote to the closing one; a doubled quote stands for itself.
func (l *lexer) quoted(end byte, backslash bool, kind tokenKind) token {
	from := l.i + 1
	for l.i++; l.i < len(l.q); l.i++ {
		switch c := l.q[l.i]; {
		case c == '\\' && backslash:
			l.i++
		case c == end:
			if l.i+1 < len(l.q) && l.q[l.i+1] == end && end != ']' {
				l.i++
				continue
			}
			text := l.q[from:l.i]
			l.i++
			return token{kind: kind, text: text}
		}
	}
	return token{kind: tokBroken}
}

// dollar reads a dollar-quoted string; $1 and a lone $ are no such thing.
func (l *lexer) dollar() (token, bool) {
	j := l.i + 1
	for j < len(l.q) && (wordStart(l.q[j]) || digit(l.q[j])) {
		j++
	}
	if j >= len(l.q) || l.q[j] != '$' {
		l.i = j
		return token{kind: tokString}, true
	}
	tag := l.q[l.i : j+1]
	for k := j + 1; k+len(tag) <= len(l.q); k++ {
		if l.q[k:k+len(tag)] == tag {
			l.i = k + len(tag)
			return token{kind: tokString}, true
		}
	}
	l.i = len(l.q)
	return token{kind: tokBroken}, true
}

func wordStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// lower folds an ASCII word into buf and returns it as a string that must not outlive buf; words too long to matter
// give "".
func lower(buf *[64]byte, w string) []byte {
	if len(w) > len(buf) {
		return nil
	}
	for i := 0; i < len(w); i++ {
		c := w[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf[i] = c
	}
	return buf[:len(w)]
}
