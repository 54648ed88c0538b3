package geodns

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// The whole way of a query but the system calls.
func TestAnswerDoesNotAllocate(t *testing.T) {
	s := server(t, ServerOptions{RateLimit: 1 << 20}, testZone(t, router(t, RouterOptions{Locator: table(t)})))
	for _, name := range []string{"geo.example.test.", "www.example.test.", "none.example.test.",
		"a.wild.example.test.", "chain.example.test.", "few.example.test."} {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		subnet("10.2.0.0/16")(m)
		m.IsEdns0().Option = append(m.IsEdns0().Option,
			&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
		b, err := m.Pack()
		require.NoError(t, err)
		w, out := s.worker(), make([]byte, 0, answerSize)
		from := netip.MustParseAddrPort("10.1.0.1:53")
		require.Zero(t, testing.AllocsPerRun(100, func() {
			if s.handle(w, b, out, from, false) == nil {
				t.Error("no answer")
			}
			w.publish()
		}), name)
	}
}

// Nor do the sockets: the whole process answers a thousand queries without an allocation of its server's.
func TestServingDoesNotAllocate(t *testing.T) {
	s := server(t, ServerOptions{Sockets: 1}, testZone(t, router(t, RouterOptions{Locator: table(t)})))
	c, err := net.Dial("udp", s.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	m := new(dns.Msg)
	m.SetQuestion("geo.example.test.", dns.TypeA)
	b, err := m.Pack()
	require.NoError(t, err)
	buf := make([]byte, 1500)
	require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	require.Less(t, testing.AllocsPerRun(1000, func() {
		c.Write(b)
		if _, err := c.Read(buf); err != nil {
			t.Error(err)
		}
	}), 0.5)
}

func TestWildcardBindAnswersFromTheAddressAsked(t *testing.T) {
	for bind, hosts := range map[string][]string{"0.0.0.0:0": {"127.0.0.1", "127.0.0.2", "127.0.0.77"},
		"[::]:0": {"::1", "127.0.0.1", "127.0.0.3"}} {
		s, err := Listen(bind, []*Zone{testZone(t, nil)}, ServerOptions{})
		if err != nil && bind == "[::]:0" {
			t.Logf("this machine has no IPv6: %v", err)
			continue
		}
		require.NoError(t, err)
		defer s.Close()
		for _, host := range hosts {
			// connected: answers from elsewhere are not seen
			c, err := net.Dial("udp", net.JoinHostPort(host, fmt.Sprint(s.Addr().Port())))
			require.NoError(t, err)
			m := new(dns.Msg)
			m.SetQuestion("www.example.test.", dns.TypeA)
			co := &dns.Conn{Conn: c}
			co.SetDeadline(time.Now().Add(10 * time.Second))
			require.NoError(t, co.WriteMsg(m))
			_, err = co.ReadMsg()
			require.NoError(t, err, host)
			c.Close()
		}
	}
}

// A burst fills many batches; each answer goes to who asked, and nothing is lost.
func TestBurstsOverManySockets(t *testing.T) {
	s := server(t, ServerOptions{}, testZone(t, nil))
	var clients []net.Conn
	for range 40 {
		c, err := net.Dial("udp", s.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		clients = append(clients, c)
	}
	for i, c := range clients {
		for k := range 25 {
			m := new(dns.Msg)
			m.SetQuestion("www.example.test.", dns.TypeA)
			m.Id = uint16(i*100 + k)
			b, err := m.Pack()
			require.NoError(t, err)
			_, err = c.Write(b)
			require.NoError(t, err)
		}
	}
	for i, c := range clients {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		for k := range 25 {
			var b [512]byte
			n, err := c.Read(b[:])
			require.NoError(t, err)
			var m dns.Msg
			require.NoError(t, m.Unpack(b[:n]))
			require.EqualValues(t, i*100+k, m.Id)
			require.Len(t, m.Answer, 1)
		}
	}
	require.EqualValues(t, 1000, s.Stats().Queries)
	require.EqualValues(t, 1000, s.Stats().NoError)
	c := clients[0] // longer than what a query may be: the kernel cuts it, and nothing comes back
	_, err := c.Write(make([]byte, 3000))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.Stats().Dropped == 1 }, 10*time.Second, time.Millisecond)
}
