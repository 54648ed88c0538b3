// Package http1 holds the parts of HTTP/1.1 that a proxy needs below net/http: the heads of requests and answers,
// chunked bodies, the pool of connections to one backend, and one table of what a proxy does with each header field
// (RFC 9110, RFC 9112).
//
// The parsers take a subset of what net/http takes and mean the same by it (FuzzRequestHead, FuzzHead, FuzzRewrite,
// FuzzChunks), so that no two readers of a message understand it differently.
package http1

import "errors"

// ErrMalformed is wrapped by the errors of answers that are no proper HTTP/1.1.
var ErrMalformed = errors.New("lb: malformed answer")

// MaxHead is the largest head and the largest trailer section of an answer, in bytes.
const MaxHead = 256 << 10
