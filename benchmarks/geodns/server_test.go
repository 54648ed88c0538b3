// Package geodns compares tierkit's name server with a bare miekg/dns server, each in a process of its own, with dnsperf as
// the client:
//
//	go test -bench . -benchtime 1x ./geodns          (needs dnsperf)
//
// limit is a UDP echo: what a Go program can do that reads and writes one packet at a time. cpu-us/op is the server's
// CPU time per answer; geo queries carry a client subnet and are answered by place.
package geodns

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/tierkit/tierkit/geodns"
	"github.com/tierkit/tierkit/geodns/countries"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("DNS_ROLE"); role != "" {
		serve(role)
		return
	}
	os.Exit(m.Run())
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func serve(role string) {
	runtime.GOMAXPROCS(1)
	var addr netip.AddrPort
	switch role {
	case "tierkit":
		r, err := geodns.NewRouter(geodns.RouterOptions{Locator: countries.Table(), DCs: []geodns.DC{
			{Name: "us", Lat: 39, Lon: -77, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
			{Name: "eu", Lat: 53, Lon: -6, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
			{Name: "ap", Lat: 1, Lon: 104, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.3")}},
		}})
		check(err)
		z, err := geodns.NewZone("example.test.", geodns.ZoneOptions{NS: []string{"ns1.example.test."}})
		check(err)
		check(z.Geo("geo", r, geodns.GeoOptions{}))
		for i := range 1000 {
			check(z.Add(fmt.Sprintf("h%d IN A 10.0.%d.%d", i, i/256, i%256)))
		}
		s, err := geodns.Listen("127.0.0.1:0", []*geodns.Zone{z}, geodns.ServerOptions{Sockets: 1})
		check(err)
		addr = s.Addr()
	case "miekg":
		answers := map[string]dns.RR{}
		for i := range 1000 {
			name := fmt.Sprintf("h%d.example.test.", i)
			rr, err := dns.NewRR(fmt.Sprintf("%s 3600 IN A 10.0.%d.%d", name, i/256, i%256))
			check(err)
			answers[name] = rr
		}
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		check(err)
		addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
		go (&dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg)
			m.SetReply(q)
			if rr := answers[strings.ToLower(q.Question[0].Name)]; rr != nil {
				m.Answer = []dns.RR{rr}
			} else {
				m.Rcode = dns.RcodeNameError
			}
			w.WriteMsg(m)
		})}).ActivateAndServe()
	case "limit":
		pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		check(err)
		addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := pc.ReadFromUDPAddrPort(b)
				check(err)
				b[2] |= 0x80
				pc.WriteToUDPAddrPort(b[:n], from)
			}
		}()
	}
	fmt.Println(addr)
	bufio.NewReader(os.Stdin).ReadByte() // ends with its parent
	os.Exit(0)
}

var (
	rate = regexp.MustCompile(`Queries per second:\s+([\d.]+)`)
	done = regexp.MustCompile(`Queries completed:\s+(\d+)`)
	lost = regexp.MustCompile(`Queries lost:\s+(\d+)`)
)

func BenchmarkServer(b *testing.B) {
	dnsperf, err := exec.LookPath("dnsperf")
	if err != nil {
		b.Skip("dnsperf is not installed")
	}
	static := filepath.Join(b.TempDir(), "static")
	var lines bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&lines, "h%d.example.test A\n", i)
	}
	check(os.WriteFile(static, lines.Bytes(), 0o600))
	geo := filepath.Join(b.TempDir(), "geo")
	check(os.WriteFile(geo, []byte("geo.example.test A\n"), 0o600))
	for round := range 3 {
		for _, c := range []struct{ work, contender string }{{"static", "limit"}, {"static", "tierkit"}, {"static", "miekg"}, {"geo+ecs", "tierkit"}} {
			b.Run(fmt.Sprintf("%s-round%d/%s", c.work, round, c.contender), func(b *testing.B) {
				cmd := exec.Command(os.Args[0], "-test.run=^$")
				cmd.Env = append(os.Environ(), "DNS_ROLE="+c.contender)
				in, _ := cmd.StdinPipe()
				out, _ := cmd.StdoutPipe()
				check(cmd.Start())
				defer cmd.Wait()
				defer in.Close()
				line, err := bufio.NewReader(out).ReadString('\n')
				check(err)
				addr := netip.MustParseAddrPort(strings.TrimSpace(line))
				args := []string{"-s", addr.Addr().String(), "-p", strconv.Itoa(int(addr.Port())), "-d", static, "-l", "2", "-c", "4", "-q", "200"}
				if c.work == "geo+ecs" {
					args = append(args, "-E", "8:0001180081bb0fe", "-d", geo)
					args[len(args)-3] = "8:00011800" + "81bbfe" // 129.187.254.0/24
				}
				for b.Loop() {
					before := cpu(cmd.Process.Pid)
					res, err := exec.Command(dnsperf, args...).CombinedOutput()
					if err != nil {
						b.Fatalf("%v\n%s", err, res)
					}
					n, _ := strconv.ParseFloat(string(done.FindSubmatch(res)[1]), 64)
					q, _ := strconv.ParseFloat(string(rate.FindSubmatch(res)[1]), 64)
					l, _ := strconv.ParseFloat(string(lost.FindSubmatch(res)[1]), 64)
					b.ReportMetric(q, "q/s")
					b.ReportMetric(float64((cpu(cmd.Process.Pid)-before).Microseconds())/n, "cpu-us/op")
					b.ReportMetric(l, "lost")
					b.ReportMetric(0, "ns/op")
				}
			})
		}
	}
}

// cpu is the CPU time that a process has used.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
