package geodns

import (
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

func TestMalformed(t *testing.T) {
	s := server(t, ServerOptions{Sockets: 1}, testZone(t, nil))
	c, err := net.Dial("udp", s.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	send := func(b []byte) (answer []byte) {
		_, err := c.Write(b)
		require.NoError(t, err)
		c.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err != nil {
			return nil
		}
		return buf[:n]
	}
	q := new(dns.Msg)
	q.SetQuestion("www.example.test.", dns.TypeA)
	good, _ := q.Pack()
	change := func(f func(b []byte) []byte) []byte { return f(append([]byte(nil), good...)) }
	require.Nil(t, send(good[:11]), "too short")
	require.Nil(t, send(change(func(b []byte) []byte { b[2] |= 0x80; return b })), "an answer is never answered")
	require.EqualValues(t, dns.RcodeNotImplemented, send(change(func(b []byte) []byte {
		b[2] = 2 << 3
		return b
	}))[3]&15)
	for name, b := range map[string][]byte{
		"two questions": change(func(b []byte) []byte { b[5] = 2; return b }),
		"none":          change(func(b []byte) []byte { b[5] = 0; return b }),
		"cut":           good[:20],
		"pointer":       change(func(b []byte) []byte { b[12] = 0xc0; return b }),
		"long label":    change(func(b []byte) []byte { b[12] = 64; return b }),
		"extra missing": change(func(b []byte) []byte { b[11] = 1; return b }),
	} {
		a := send(b)
		require.NotNil(t, a, name)
		require.EqualValues(t, dns.RcodeFormatError, a[3]&15, name)
		require.LessOrEqual(t, len(a), len(b), "%s: no amplification", name)
	}
	bad := func(f func(e *dns.EDNS0_SUBNET)) *dns.Msg {
		return ask(t, s, "udp", "www.example.test.", dns.TypeA, subnet("10.0.0.0/8"), func(m *dns.Msg) {
			f(m.IsEdns0().Option[0].(*dns.EDNS0_SUBNET))
		})
	}
	require.Equal(t, dns.RcodeFormatError, bad(func(e *dns.EDNS0_SUBNET) { e.SourceScope = 8 }).Rcode)
	chaos := ask(t, s, "udp", "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })
	require.Equal(t, dns.RcodeRefused, chaos.Rcode)
	require.NotZero(t, s.Stats().FormErr)
}

func FuzzParse(f *testing.F) {
	for _, tune := range []func(*dns.Msg){func(*dns.Msg) {}, edns, subnet("10.1.0.0/16"), subnet("2001:db8::/32")} {
		m := new(dns.Msg)
		m.SetQuestion("geo.example.test.", dns.TypeA)
		tune(m)
		b, _ := m.Pack()
		f.Add(b)
	}
	r, err := NewRouter(RouterOptions{DCs: dcs()})
	if err != nil {
		f.Fatal(err)
	}
	defer r.Close()
	set, err := compileZones([]*Zone{testZone(f, r)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(query)
		v := q.parse(b)
		if v == drop {
			return
		}
		a := set.answer(q, v, b, ip("10.1.0.1"), make([]byte, 0, 8192), 1232)
		if len(a.out) > 1232 && len(a.out) > len(b) {
			t.Fatalf("%d bytes", len(a.out))
		}
		var m dns.Msg
		if err := m.Unpack(a.out); err != nil {
			t.Fatalf("unreadable answer: %v\n%x", err, a.out)
		}
	})
}
