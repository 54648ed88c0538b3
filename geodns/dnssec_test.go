package geodns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/internal/test/testserver"
)

func signedZone(t testing.TB, r *Router) *Zone {
	z := testZone(t, r)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	require.NoError(t, z.Sign(SignOptions{Key: key}))
	return z
}

func dnssecOK(m *dns.Msg) { m.SetEdns0(1232, true) }

// validate checks every signature of an answer, and that all that is the zone's has one.
func validate(t *testing.T, res *dns.Msg, key *dns.DNSKEY) {
	t.Helper()
	for i, section := range [][]dns.RR{res.Answer, res.Ns} {
		sets := map[string][]dns.RR{}
		sigs := map[string]*dns.RRSIG{}
		for _, rr := range section {
			h := rr.Header()
			name := strings.ToLower(h.Name) + " "
			if sig, ok := rr.(*dns.RRSIG); ok {
				sigs[name+dns.TypeToString[sig.TypeCovered]] = sig
				continue
			}
			sets[name+dns.TypeToString[h.Rrtype]] = append(sets[name+dns.TypeToString[h.Rrtype]], rr)
		}
		for name, set := range sets {
			if !dns.IsSubDomain("example.test.", set[0].Header().Name) || i == 1 &&
				set[0].Header().Rrtype == dns.TypeNS {
				require.Nil(t, sigs[name], "%s: a referral is not signed", name)
				continue
			}
			require.NotNil(t, sigs[name], "%s has no signature\n%s", name, res)
			require.NoError(t, sigs[name].Verify(key, set), name)
			require.True(t, sigs[name].ValidityPeriod(time.Now()))
			require.Equal(t, set[0].Header().Ttl, sigs[name].OrigTtl)
			delete(sigs, name)
		}
		require.Empty(t, sigs, "signatures of nothing")
	}
}

func nsec(res *dns.Msg) *dns.NSEC {
	for _, rr := range res.Ns {
		if n, ok := rr.(*dns.NSEC); ok {
			return n
		}
	}
	return nil
}

func TestSignedAnswersValidate(t *testing.T) {
	r := router(t, RouterOptions{Locator: table(t)})
	z := signedZone(t, r)
	require.NoError(t, z.Add("safe IN NS ns.safe",
		"safe IN DS 1 13 2 0123456789012345678901234567890123456789012345678901234567890123", "ns.safe IN A 192.0.2.98",
		"Mixed.Case IN MX 5 Mail"))
	s := server(t, ServerOptions{}, z)
	res := ask(t, s, "udp", "example.test.", dns.TypeDNSKEY, dnssecOK)
	key := res.Answer[0].(*dns.DNSKEY)
	require.Equal(t, z.DS(), key.ToDS(dns.SHA256).String())
	validate(t, res, key)
	for _, c := range []struct {
		name  string
		typ   uint16
		rcode int
		nsec  string // types of the denial
	}{
		{"www.example.test.", dns.TypeA, 0, ""},
		{"wWw.Example.tesT.", dns.TypeA, 0, ""},
		{"geo.example.test.", dns.TypeA, 0, ""},
		{"few.example.test.", dns.TypeA, 0, ""},
		{"x.geo.example.test.", dns.TypeA, 0, ""},
		{"chain.example.test.", dns.TypeA, 0, ""},
		{"away.example.test.", dns.TypeA, 0, ""},
		{"a.b.wild.example.test.", dns.TypeTXT, 0, ""},
		{"srv.example.test.", dns.TypeSRV, 0, ""},
		{"example.test.", dns.TypeSOA, 0, ""},
		{"example.test.", dns.TypeNS, 0, ""},
		{"mixed.case.example.test.", dns.TypeMX, 0, ""},
		{"www.example.test.", dns.TypeANY, 0, ""},
		{"safe.example.test.", dns.TypeDS, 0, ""},
		{"www.example.test.", dns.TypeNSEC, 0, ""},
		{"www.example.test.", dns.TypeAAAA, 0, "A RRSIG NSEC"},
		{"chain.example.test.", dns.TypeAAAA, 0, "A RRSIG NSEC"},
		{"geo.example.test.", dns.TypeTXT, 0, "A AAAA RRSIG NSEC"},
		{"geo.example.test.", dns.TypeAAAA, 0, ""},
		{"x.wild.example.test.", dns.TypeMX, 0, "A TXT RRSIG NSEC"},
		{"ent.example.test.", dns.TypeA, 0, "RRSIG NSEC"},
		{"none.example.test.", dns.TypeA, 0, "RRSIG NSEC NXNAME"},
		{"dead.example.test.", dns.TypeA, 0, "RRSIG NSEC NXNAME"},
		{"sub.example.test.", dns.TypeDS, 0, "NS RRSIG NSEC"},
		{"x.sub.example.test.", dns.TypeA, 0, "NS RRSIG NSEC"},
		{"x.safe.example.test.", dns.TypeA, 0, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			what := fmt.Sprint(network, " ", c.name, dns.TypeToString[c.typ])
			res := ask(t, s, network, c.name, c.typ, dnssecOK)
			require.False(t, res.Truncated, what)
			require.Equal(t, c.rcode, res.Rcode, what)
			validate(t, res, key)
			n := nsec(res)
			require.Equal(t, c.nsec != "", n != nil, "%s\n%s", what, res)
			if n == nil {
				continue
			}
			var types []string
			for _, typ := range n.TypeBitMap {
				types = append(types, map[bool]string{true: "NXNAME", false: dns.TypeToString[typ]}[typ == typeNXNAME])
			}
			require.Equal(t, c.nsec, strings.Join(types, " "), what)
			require.Equal(t, `\000.`+strings.ToLower(n.Hdr.Name), n.NextDomain, "nothing but the name itself is denied")
			require.EqualValues(t, 30, n.Hdr.Ttl)
		}
	}
	ds := ask(t, s, "udp", "x.safe.example.test.", dns.TypeA, dnssecOK)
	require.Equal(t, []uint16{dns.TypeNS, dns.TypeDS, dns.TypeRRSIG},
		[]uint16{ds.Ns[0].Header().Rrtype, ds.Ns[1].Header().Rrtype, ds.Ns[2].Header().Rrtype})

	require.Equal(t, dns.RcodeNameError, ask(t, s, "udp", "none.example.test.", dns.TypeA).Rcode,
		"who does not ask for proof is told plainly")
	compact := ask(t, s, "udp", "none.example.test.", dns.TypeA, dnssecOK, func(m *dns.Msg) {
		m.IsEdns0().Hdr.Ttl |= 0x4000
	})
	require.Equal(t, dns.RcodeNameError, compact.Rcode, "CO: the client understands the proof")
	validate(t, compact, key)
	require.NotZero(t, compact.IsEdns0().Hdr.Ttl&0x4000)
	require.Equal(t, dns.RcodeFormatError, ask(t, s, "udp", "none.example.test.", typeNXNAME).Rcode)
	require.Empty(t, ask(t, s, "udp", "www.example.test.", dns.TypeA).Ns)
	for _, rr := range ask(t, s, "udp", "www.example.test.", dns.TypeA, edns, func(m *dns.Msg) {
		m.IsEdns0().SetDo(false)
	}).Answer {
		require.NotEqual(t, dns.TypeRRSIG, rr.Header().Rrtype)
	}
	big := ask(t, s, "udp", "big.example.test.", dns.TypeTXT, dnssecOK)
	require.True(t, big.Truncated)
	require.Empty(t, big.Answer)
	validate(t, ask(t, s, "tcp", "big.example.test.", dns.TypeTXT, dnssecOK), key)
}

func TestSignaturesAreKeptAndRenewed(t *testing.T) {
	z := signedZone(t, nil)
	set, err := compileZones([]*Zone{z})
	require.NoError(t, err)
	d := set.byApex["\x07example\x04test\x00"]
	owner, err := wireName("www.example.test.")
	require.NoError(t, err)
	tails := func() [][]byte { return [][]byte{d.nodes[owner].sets[dns.TypeA].tails} }
	now := time.Now()
	first, err := d.signer.sign(d.apex, owner, dns.TypeA, tails(), now)
	require.NoError(t, err)
	again, err := d.signer.sign(d.apex, owner, dns.TypeA, tails(), now.Add(35*time.Hour))
	require.NoError(t, err)
	require.Equal(t, first, again)
	renewed, err := d.signer.sign(d.apex, owner, dns.TypeA, tails(), now.Add(37*time.Hour))
	require.NoError(t, err)
	require.NotEqual(t, first, renewed, "half of the validity has passed")
	for i := range 70000 { // the memory is bounded
		shard := &d.signer.kept[i%len(d.signer.kept)]
		if len(shard.byKey) < keptPerShard {
			shard.byKey[fmt.Sprint(i)] = signature{}
		}
	}
	_, err = d.signer.sign(d.apex, owner, dns.TypeA, [][]byte{append(slices.Clone(tails()[0][:10]), 1, 2, 3, 4)}, now)
	require.NoError(t, err)
	for i := range d.signer.kept {
		require.LessOrEqual(t, len(d.signer.kept[i].byKey), keptPerShard)
	}
}

func TestSignOptionsAreChecked(t *testing.T) {
	z := testZone(t, nil)
	require.Empty(t, z.DS())
	require.ErrorContains(t, z.Sign(SignOptions{}), "Key")
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	require.ErrorContains(t, z.Sign(SignOptions{Key: p384}), "P-256")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	require.ErrorContains(t, z.Sign(SignOptions{Key: rsaKey}), "P-256")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	require.ErrorContains(t, z.Sign(SignOptions{Key: key, Validity: time.Minute}), "Validity")
	require.NoError(t, z.Add("x IN NSEC y A"))
	require.ErrorContains(t, z.Sign(SignOptions{Key: key}), "NSEC")
}

// BIND's validator, which shares nothing with us.
func TestDelvValidates(t *testing.T) {
	delv := testserver.Command(t, "delv", "apt install bind9-dnsutils")
	r := router(t, RouterOptions{Locator: table(t)})
	z := signedZone(t, r)
	s := server(t, ServerOptions{}, z)
	f := strings.Fields(z.signer.dnskey.String())
	anchors := filepath.Join(t.TempDir(), "anchors")
	require.NoError(t, os.WriteFile(anchors, []byte(
		fmt.Sprintf("trust-anchors { example.test. static-key %s %s %s \"%s\"; };\n", f[4], f[5], f[6],
			strings.Join(f[7:], ""))), 0o600))
	for query, want := range map[string]string{
		"www.example.test A":     "; fully validated",
		"geo.example.test A":     "; fully validated",
		"a.wild.example.test A":  "; fully validated",
		"chain.example.test A":   "; fully validated",
		"www.example.test AAAA":  "; negative response, fully validated",
		"none.example.test A":    "; negative response, fully validated",
		"ent.example.test A":     "; negative response, fully validated",
		"x.wild.example.test MX": "; negative response, fully validated",
	} {
		args := append([]string{"@127.0.0.1", "-p", fmt.Sprint(s.Addr().Port()), "-a", anchors, "+root=example.test"},
			strings.Fields(query)...)
		out, err := exec.Command(delv, args...).CombinedOutput()
		require.NoError(t, err, "%s\n%s", query, out)
		require.Contains(t, string(out), want, "%s\n%s", query, out)
	}
}

func BenchmarkSigned(b *testing.B) {
	s := server(b, ServerOptions{}, signedZone(b, router(b, RouterOptions{Locator: table(b)})))
	m := new(dns.Msg)
	m.SetQuestion("geo.example.test.", dns.TypeA)
	m.SetEdns0(1232, true)
	packet, err := m.Pack()
	require.NoError(b, err)
	from := s.Addr()
	for _, name := range []string{"kept", "made"} {
		b.Run(name, func(b *testing.B) {
			w, out, n := s.worker(), make([]byte, 0, answerSize), 0
			q := slices.Clone(packet)
			if name == "made" {
				m.SetQuestion("aaaaaaaa.example.test.", dns.TypeA)
				q, err = m.Pack()
				require.NoError(b, err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if n++; name == "made" {
					copy(q[13:], fmt.Sprintf("%08x", n))
				}
				s.handle(w, q, out, from, false)
			}
		})
	}
}
