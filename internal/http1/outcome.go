package http1

import "time"

// Outcome is how one attempt at a request ended.
type Outcome struct {
	Err     error         // nil: the answer was passed on
	Unsent  bool          // no byte of the request can have been processed
	Silent  bool          // the connection ended before a byte of the answer came
	Started bool          // bytes of the answer went to the client
	Client  bool          // the client caused Err; it does not count against the backend
	Status  int           // of the answer, 0 without one
	Latency time.Duration // until the answer's head
}

// SafeToRetry reports whether the request may be sent again, to whatever backend: no byte of an answer went to the
// client, which is not the cause, and the request was not sent or may be sent twice (repeatable).
func (o *Outcome) SafeToRetry(repeatable bool) bool {
	return !o.Started && !o.Client && (o.Unsent || repeatable)
}

// Stale reports whether the failure of an exchange over c says nothing about the backend, which had closed the
// connection while it was idle. Such a request goes out again at once, over a new connection to the same backend, if
// it may be sent again.
func (o *Outcome) Stale(c *Conn, repeatable bool) bool {
	return o.Err != nil && c.Used && o.Silent && o.SafeToRetry(repeatable)
}
