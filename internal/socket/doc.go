// Package socket reads and writes sockets without telling the scheduler, and carries bytes between two connections.
//
// A proxy makes two reads and two writes for a small exchange, so their overhead counts. [Conn] makes them with system
// calls that never block and leaves the waiting to Go's poller; [Join] copies between two connections and holds no
// buffer while nothing moves. On systems without such calls both fall back to package net.
package socket

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// Of returns the socket of a *net.TCPConn or a *net.UnixConn, and nil for every other connection: a type around one
// may count or change what passes, even when it lends its methods. It also returns nil on systems without ReadNow.
func Of(c net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch c := c.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	if !canRead {
		return nil
	}
	return raw
}

// Under returns the socket below c, through connections that offer NetConn() net.Conn or syscall.Conn; nil if there is
// none. It serves to look at the socket, not to read from it.
func Under(c net.Conn) syscall.RawConn {
	for {
		if s, ok := c.(syscall.Conn); ok {
			raw, _ := s.SyscallConn()
			return raw
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
}

// IsTimeout reports whether err is a timeout of a connection or a context.
func IsTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// GetBuffer returns a buffer of 32 KiB, to be given back with PutBuffer.
func GetBuffer() *[]byte { return buffers.Get().(*[]byte) }

// PutBuffer gives a buffer of GetBuffer back.
func PutBuffer(b *[]byte) { buffers.Put(b) }

var began = time.Now()

// Clock returns the monotonic time since the process began.
func Clock() time.Duration { return time.Since(began) }
