package lb

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/http1"
	"github.com/tierkit/tierkit/internal/socket"
)

// sender streams the request's body to the backend while the answer is awaited: a backend may answer before it has read
// everything.
type sender struct {
	start chan struct{} // closed: send now
	once  sync.Once
	stop  chan struct{} // closed: the answer is complete
	done  chan struct{}
	err   error // of the client; read after done
}

// send starts to send. When the client expects 100 Continue it waits for the backend's word, so that a refusal saves
// the body.
func (x *exchange) send(c *http1.Conn) *sender {
	s := &sender{start: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{})}
	http.NewResponseController(x.w).EnableFullDuplex() // reading goes on after the answer has begun; HTTP/2 always does
	if !x.expect {
		s.proceed()
	}
	t := x.b.o.Timeouts
	r := x.r
	go func() {
		defer close(s.done)
		if x.expect {
			wait := time.NewTimer(max(t.Expect, time.Millisecond))
			defer wait.Stop()
			select {
			case <-s.start:
			case <-wait.C:
			case <-s.stop:
				s.err = errUnfinished
				return
			}
		}
		x.begun = true
		if s.err = sendBody(c, r, t.Idle); s.err != nil {
			if fromClient(s.err) {
				c.Close()
			} // else the backend does not read: its answer, if it sent one, is being read
			return
		}
		c.SetWriteDeadline(time.Time{}) // the next request on this connection is not to inherit it
		if t.Header > 0 {
			c.SetReadDeadline(time.Now().Add(t.Header))
		}
	}()
	return s
}

var errUnfinished = errors.New("lb: the answer came before the request's end")

func (s *sender) proceed() { s.once.Do(func() { close(s.start) }) }

func fromClient(err error) bool {
	return errors.Is(err, ErrClient)
}

// finish ends the sender; whole is whether the body was sent to its end, so that the connection is in step.
func (s *sender) finish(x *exchange, c *http1.Conn) (whole bool) {
	select {
	case <-s.done:
	default:
		close(s.stop)
		c.Close()
		// A read from the client may be pending; it ends here, and net/http then closes the client's connection.
		select {
		case <-s.done:
		case <-time.After(10 * time.Millisecond):
			http.NewResponseController(x.w).SetReadDeadline(time.Unix(1, 0))
			<-s.done
		}
	}
	return s.err == nil
}

func sendBody(c *http1.Conn, r *http.Request, idle time.Duration) error {
	buf := socket.GetBuffer()
	defer socket.PutBuffer(buf)
	b := *buf
	write := func(p []byte) error {
		if idle > 0 {
			c.SetWriteDeadline(time.Now().Add(idle))
		}
		_, err := c.Write(p)
		return err
	}
	if r.ContentLength >= 0 {
		var sent int64
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				sent += int64(n)
				if werr := write(b[:n]); werr != nil {
					return werr
				}
			}
			if err == io.EOF || err == nil && sent == r.ContentLength {
				if sent != r.ContentLength {
					return clientError(io.ErrUnexpectedEOF)
				}
				return nil
			}
			if err != nil {
				return clientError(err)
			}
		}
	}
	const room = 8 // for "7ff8\r\n" before and "\r\n" behind the data: a chunk is one write
	for {
		n, err := r.Body.Read(b[room : len(b)-2])
		if n > 0 {
			size := hex(n)
			at := room - 2 - len(size)
			copy(b[at:], size)
			b[room-2], b[room-1] = '\r', '\n'
			b[room+n], b[room+n+1] = '\r', '\n'
			if werr := write(b[at : room+n+2]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			end := append(b[:0], "0\r\n"...)
			for k, vs := range r.Trailer {
				for _, v := range vs {
					end = http1.AppendField(end, k, v)
				}
			}
			if werr := write(append(end, '\r', '\n')); werr != nil {
				return werr
			}
			return nil
		}
		if err != nil {
			return clientError(err)
		}
	}
}

func hex(n int) string {
	const digits = "0123456789abcdef"
	var b [8]byte
	i := len(b)
	for ; n > 0; n >>= 4 {
		i--
		b[i] = digits[n&15]
	}
	return string(b[i:])
}
