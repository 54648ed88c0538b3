package tcp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/internal/clientaddr"
)

var errProxyHeader = errors.New("tcp: malformed PROXY header")

// ProxyListener returns a listener that takes the client's address from the PROXY header (of HAProxy's protocol,
// version 1 or 2) of connections from the accepted networks, for use with an http.Server or a front. The header is read
// when the connection is first used, within 5 s.
func ProxyListener(l net.Listener, accept []netip.Prefix) net.Listener {
	return &proxyListener{l, accept}
}

type proxyListener struct {
	net.Listener
	accept []netip.Prefix
}

func (l *proxyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || !clientaddr.Within(l.accept, addrOf(c.RemoteAddr()).Addr().Unmap()) {
		return c, err
	}
	return &proxiedConn{Conn: c, br: bufio.NewReaderSize(c, 1024)}, nil
}

// proxiedConn reads its header when it is first asked for bytes or for its peer, not while the listener accepts: a
// silent peer must not hold up the others.
type proxiedConn struct {
	net.Conn
	br   *bufio.Reader
	once sync.Once
	from net.Addr
	err  error
}

const proxyHeaderTimeout = 5 * time.Second

func (c *proxiedConn) header() {
	c.once.Do(func() {
		c.Conn.SetReadDeadline(time.Now().Add(proxyHeaderTimeout))
		var from netip.AddrPort
		if from, c.err = readProxyHeader(c.br); from.IsValid() {
			c.from = net.TCPAddrFromAddrPort(from)
		}
		c.Conn.SetReadDeadline(time.Time{})
		if c.err != nil {
			c.Conn.Close()
		}
	})
}

func (c *proxiedConn) RemoteAddr() net.Addr {
	if c.header(); c.from != nil {
		return c.from
	}
	return c.Conn.RemoteAddr()
}

func (c *proxiedConn) Read(p []byte) (int, error) {
	if c.header(); c.err != nil {
		return 0, c.err
	}
	if c.br.Buffered() > 0 {
		return c.br.Read(p)
	}
	return c.Conn.Read(p) // past the buffer: nothing is copied twice
}

// NetConn is the connection behind the header.
func (c *proxiedConn) NetConn() net.Conn { return c.Conn }

// CloseWrite is passed on, so that half closes work.
func (c *proxiedConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Conn.Close()
}

var proxyV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")

// readProxyHeader takes a header of either version off r. The address is invalid when the proxy speaks for itself
// (LOCAL, UNKNOWN).
func readProxyHeader(r *bufio.Reader) (from netip.AddrPort, err error) {
	first, err := r.Peek(1)
	if err != nil {
		return from, err
	}
	if first[0] == 'P' {
		return readProxyV1(r)
	}
	head, err := r.Peek(16)
	if err != nil {
		return from, err
	}
	if !bytes.Equal(head[:12], proxyV2) || head[12]>>4 != 2 {
		return from, errProxyHeader
	}
	command, family := head[12]&15, head[13]
	n := int(binary.BigEndian.Uint16(head[14:]))
	if command > 1 || n > 2048 {
		return from, errProxyHeader
	}
	r.Discard(16)
	body := make([]byte, n)
	for k := 0; k < n; {
		m, err := r.Read(body[k:])
		if err != nil {
			return from, err
		}
		k += m
	}
	if command == 0 {
		return from, nil
	}
	switch {
	case family == 0x11 && n >= 12:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(body[:4])), binary.BigEndian.Uint16(body[8:])), nil
	case family == 0x21 && n >= 36:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(body[:16])).Unmap(), binary.BigEndian.Uint16(body[32:])),
			nil
	case family == 0:
		return from, nil
	}
	return from, errProxyHeader
}

func readProxyV1(r *bufio.Reader) (from netip.AddrPort, err error) {
	var line []byte
	for len(line) < 107 { // the longest by the specification
		b, err := r.ReadByte()
		if err != nil {
			return from, err
		}
		if line = append(line, b); b == '\n' {
			break
		}
	}
	s, ok := strings.CutSuffix(string(line), "\r\n")
	f := strings.Split(s, " ")
	if !ok || len(f) < 2 || f[0] != "PROXY" {
		return from, errProxyHeader
	}
	if f[1] == "UNKNOWN" {
		return from, nil
	}
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return from, errProxyHeader
	}
	a, err := netip.ParseAddr(f[2])
	port, err2 := strconv.ParseUint(f[4], 10, 16)
	if err != nil || err2 != nil || a.Is4() != (f[1] == "TCP4") || a.Zone() != "" {
		return from, errProxyHeader
	}
	return netip.AddrPortFrom(a, uint16(port)), nil
}

// appendProxyHeader writes the header of a version for a connection from one address to another.
func appendProxyHeader(b []byte, version int, from, to netip.AddrPort) []byte {
	src, dst := from.Addr().Unmap().WithZone(""), to.Addr().Unmap().WithZone("")
	known := src.IsValid() && dst.IsValid() && src.Is4() == dst.Is4()
	if version == 1 {
		if !known {
			return append(b, "PROXY UNKNOWN\r\n"...)
		}
		family := "TCP4"
		if src.Is6() {
			family = "TCP6"
		}
		return fmt.Appendf(b, "PROXY %s %s %s %d %d\r\n", family, src, dst, from.Port(), to.Port())
	}
	b = append(b, proxyV2...)
	if !known {
		return append(b, 0x20, 0, 0, 0)
	}
	family := byte(0x11)
	if src.Is6() {
		family = 0x21
	}
	addrs := slices.Concat(src.AsSlice(), dst.AsSlice())
	addrs = binary.BigEndian.AppendUint16(addrs, from.Port())
	addrs = binary.BigEndian.AppendUint16(addrs, to.Port())
	b = append(b, 0x21, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(addrs)))
	return append(b, addrs...)
}

func addrOf(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	p, _ := netip.ParseAddrPort(a.String())
	return p
}
