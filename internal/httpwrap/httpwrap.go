// Package httpwrap wraps an http.ResponseWriter without hiding what the one below can do: flushing, hijacking, full
// duplex, deadlines (through Unwrap and http.ResponseController) and sendfile (through ReadFrom) keep working, and 1xx
// responses pass by.
package httpwrap

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Writer counts and observes what a handler sends. It belongs to one request and is not safe for concurrent use, as any
// ResponseWriter.
type Writer struct {
	http.ResponseWriter
	// Status is the final status sent, 0 before it, 101 after a protocol switch, -1 after a Hijack without one.
	Status int
	// Written counts the body bytes that the connection took.
	Written int64
	// Before, when set, runs once just before the final header goes out (also when the handler flushes, writes without
	// WriteHeader, or returns having written nothing and the caller calls Finish). It may still change the header. If
	// it returns a status other than 0, that status is sent instead of the handler's, and the handler's body is
	// dropped.
	Before func(status int) int
	// Lane numbers the pooled Writers and stays with one when it is used again. The pool hands a processor the Writer
	// that it gave back last, so counters that are striped by Lane are rarely shared between processors.
	Lane uint32
	// Observer, when set, is told of the same moment: for a caller who has an object at hand and wants no closure per
	// request.
	Observer HeaderObserver

	dropBody bool
}

var (
	lanes atomic.Uint32
	pool  = sync.Pool{New: func() any { return &Writer{Lane: lanes.Add(1)} }}
)

// HeaderObserver sees the header off.
type HeaderObserver interface {
	// BeforeHeader runs once just before the final header goes out; it may still change it.
	BeforeHeader()
	// HeaderGone runs when a handler has taken the connection over before any status: no header will go out.
	HeaderGone()
}

// Get returns a Writer around w from a pool; give it back with Put when the handler has returned.
func Get(w http.ResponseWriter) *Writer {
	p := pool.Get().(*Writer)
	p.ResponseWriter = w
	return p
}

// Put returns w to the pool. Nothing may use it afterwards.
func Put(w *Writer) {
	*w = Writer{Lane: w.Lane}
	pool.Put(w)
}

// Wrap returns a Writer around w that the garbage collector owns: for handlers that may keep it.
func Wrap(w http.ResponseWriter) *Writer { return &Writer{ResponseWriter: w} }

// WriteHeader sends an informational status as it is, and the first final one after Before.
func (w *Writer) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if w.Status != 0 {
		w.ResponseWriter.WriteHeader(status) // let net/http log the superfluous call
		return
	}
	w.Status = status
	if w.Observer != nil {
		w.Observer.BeforeHeader()
	}
	if w.Before != nil {
		if instead := w.Before(status); instead != 0 && instead != status {
			w.Status, w.dropBody = instead, true
			h := w.Header()
			h.Del("Content-Length")
			h.Del("Content-Encoding")
			h.Set("Content-Type", "text/plain; charset=utf-8")
			h.Set("X-Content-Type-Options", "nosniff")
			w.ResponseWriter.WriteHeader(instead)
			io.WriteString(w.ResponseWriter, http.StatusText(instead)+"\n")
			return
		}
	}
	w.ResponseWriter.WriteHeader(w.Status)
}

// Finish sends the header if the handler has not: net/http would do the same, but without Before.
func (w *Writer) Finish() {
	if w.Status == 0 {
		w.WriteHeader(http.StatusOK)
	}
}

func (w *Writer) Write(p []byte) (int, error) {
	w.Finish()
	if w.dropBody {
		return len(p), nil
	}
	n, err := w.ResponseWriter.Write(p)
	w.Written += int64(n)
	return n, err
}

// WriteString avoids the copy that io.WriteString would make.
func (w *Writer) WriteString(s string) (int, error) {
	w.Finish()
	if w.dropBody {
		return len(s), nil
	}
	n, err := io.WriteString(w.ResponseWriter, s)
	w.Written += int64(n)
	return n, err
}

// ReadFrom hands src to the connection's own ReadFrom, which may use sendfile or splice.
func (w *Writer) ReadFrom(src io.Reader) (int64, error) {
	w.Finish()
	if w.dropBody {
		return io.Copy(io.Discard, src)
	}
	n, err := io.Copy(w.ResponseWriter, src)
	w.Written += n
	return n, err
}

// Flush sends what is buffered; it does nothing where the writer below can't flush, as http.Flusher demands.
func (w *Writer) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *Writer) FlushError() error {
	w.Finish()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack takes the connection over; errors.Is(err, http.ErrNotSupported) where the writer below can't.
func (w *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.Status == 0 {
		w.Status = -1
		if w.Observer != nil {
			w.Observer.HeaderGone()
		}
	}
	return c, rw, err
}

// Unwrap lets http.ResponseController reach the writer below for everything else (deadlines, full duplex).
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
