// Package httpfield checks the parts of HTTP header fields (RFC 9110 section 5) for code that reads or writes messages
// itself.
package httpfield

import "strings"

// The bytes of a token (RFC 9110 section 5.6.2), such as a field's name; of a host; and of a field's value.
var (
	NameByte  = Class("!#$%&'*+-.^_`|~")
	HostByte  = Class("!$%&'()*+,-.:;=[]_~")
	ValueByte = func() (s [256]bool) {
		for c := range s {
			s[c] = c >= ' ' && c != 0x7f || c == '\t'
		}
		return s
	}()
)

// Class returns the set of ASCII letters, digits and the characters of more.
func Class(more string) (s [256]bool) {
	for c := range 256 {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		s[c] = letter || c < 128 && strings.IndexByte(more, byte(c)) >= 0
	}
	return s
}

// IsName reports whether s can be a field's name or a method.
func IsName(s string) bool { return s != "" && all(s, &NameByte) }

// IsHost reports whether s can be the value of a Host field; it may be empty.
func IsHost(s string) bool { return all(s, &HostByte) }

func all(s string, set *[256]bool) bool {
	for i := range len(s) {
		if !set[s[i]] {
			return false
		}
	}
	return true
}

// IsValue reports whether s can be a field's value: no control characters but the tab.
func IsValue(s string) bool { return all(s, &ValueByte) }

// Lists reports whether one of the lines, each a comma-separated list, holds item; letter case does not matter.
func Lists(lines []string, item string) bool {
	for _, line := range lines {
		for line != "" {
			var one string
			one, line, _ = strings.Cut(line, ",")
			if strings.EqualFold(strings.Trim(one, " \t"), item) {
				return true
			}
		}
	}
	return false
}

// IsTrailer reports whether a field may be in a trailer section: not what frames, routes, authenticates or tells how to
// read the message (RFC 9110 section 6.5.1). name is canonical.
func IsTrailer(name string) bool {
	if strings.HasPrefix(name, "If-") {
		return false
	}
	switch name {
	case "Authorization", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Range",
		"Content-Type", "Expect", "Host",
		"Keep-Alive", "Max-Forwards", "Pragma", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
		"Range", "Realm", "Te", "Trailer",
		"Transfer-Encoding", "Www-Authenticate", "Set-Cookie":
		return false
	}
	return IsName(name)
}
