package session_test

import (
	"net"
	"time"
)

// listenAgain takes an address that was in use a moment ago.
func listenAgain(addr string) (l net.Listener, err error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if l, err = net.Listen("tcp", addr); err == nil {
			return l, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, err
}
