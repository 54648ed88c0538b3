//go:build !unix

package lb

// silent can't look here: every connection is used once.
func silent(uintptr) bool { return false }
