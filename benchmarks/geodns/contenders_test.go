package geodns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/miekg/dns"

	"github.com/tierkit/tierkit/geodns/countries"
)

const hosts = 1000

// contender is a server to measure: a command, and what it must answer before it is.
type contender struct {
	name string // work/contender
	cmd  func(addr string) *exec.Cmd
	want string // the answer that shows that it works; empty: an echo
	pid  *int
}

func (c contender) geo() bool { return strings.HasPrefix(c.name, "geo+ecs/") }

func (c contender) start(b *testing.B, addr string) (stop func()) {
	cmd := c.cmd(addr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	check(cmd.Start())
	*c.pid = cmd.Process.Pid
	return func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		kill := time.AfterFunc(3*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		cmd.Wait()
		kill.Stop()
		if b.Failed() {
			b.Log(out.String())
		}
	}
}

// await asks until the answer is right, and returns the process group.
func (c contender) await(b *testing.B, addr string) int {
	q := new(dns.Msg)
	if q.SetQuestion("h7.example.test.", dns.TypeA); c.geo() {
		q.SetQuestion("geo.example.test.", dns.TypeA)
		q.SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24,
			Address: net.IPv4(129, 187, 254, 0)}}
	}
	client := dns.Client{Timeout: 200 * time.Millisecond}
	var last any
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(20 * time.Millisecond) {
		res, _, err := client.Exchange(q, addr)
		if last = err; err != nil {
			continue
		}
		if last = res; c.want == "" || len(res.Answer) > 0 && strings.HasSuffix(res.Answer[0].String(), c.want) {
			return *c.pid
		}
	}
	b.Fatalf("%s does not answer: %v", c.name, last)
	return 0
}

func freePort() string {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(err)
	defer pc.Close()
	return pc.LocalAddr().String()
}

func write(dir, name, text string) string {
	name = filepath.Join(dir, name)
	check(os.MkdirAll(filepath.Dir(name), 0o755))
	check(os.WriteFile(name, []byte(text), 0o644))
	return name
}

// contenders prepares all of them, geo ones with three centers that serve by continent.
func contenders(b *testing.B, dir string) (all []contender) {
	add := func(name, want string, cmd func(addr string) *exec.Cmd) {
		all = append(all, contender{name, cmd, want, new(int)})
	}
	ours := func(role string) func(addr string) *exec.Cmd {
		return func(addr string) *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "DNS_ROLE="+role, "DNS_ADDR="+addr)
			return cmd
		}
	}
	add("static/limit", "", ours("limit"))
	add("static/echo", "", ours("echo"))
	add("static/tierkit", "10.0.0.7", ours("tierkit"))
	add("static/tierkit-reload", "10.0.0.7", ours("tierkit-reload"))
	add("static/miekg", "10.0.0.7", ours("miekg"))
	var zone strings.Builder
	zone.WriteString("$ORIGIN example.test.\n$TTL 3600\n@ IN SOA ns1 hostmaster 1 3600 600 604800 60\n@ IN NS ns1\nns1 IN A 127.0.0.1\ngeo 30 IN A 192.0.2.9\n")
	for i := range hosts {
		fmt.Fprintf(&zone, "h%d IN A 10.0.%d.%d\n", i, i/256, i%256)
	}
	file := write(dir, "zones/example.test", zone.String())
	db := database(dir)

	coredns := filepath.Join(dir, "coredns")
	build := exec.Command("go", "build", "-o", coredns, ".")
	build.Dir = "coredns"
	if out, err := build.CombinedOutput(); err != nil {
		b.Logf("without CoreDNS: %v\n%s", err, out)
		coredns = ""
	}
	core := func(corefile string) func(addr string) *exec.Cmd {
		return func(addr string) *exec.Cmd {
			_, port, _ := net.SplitHostPort(addr)
			cmd := exec.Command(coredns, "-quiet", "-conf",
				write(dir, "Corefile", strings.ReplaceAll(corefile, "PORT", port)))
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
			return cmd
		}
	}
	if coredns != "" {
		add("static/coredns", "10.0.0.7", core("example.test:PORT {\n bind 127.0.0.1\n file "+file+"\n}\n"))
	}
	if nsd, err := exec.LookPath("nsd"); err == nil {
		add("static/nsd", "10.0.0.7", func(addr string) *exec.Cmd {
			os.RemoveAll(filepath.Join(dir, "nsd"))
			write(dir, "nsd/empty", "")
			conf := fmt.Sprintf("server:\n ip-address: %s\n server-count: 1\n username: \"\"\n zonesdir: %q\n database: \"\"\n pidfile: %q\n zonelistfile: %q\n xfrdfile: %q\n xfrdir: %q\n do-ip6: no\nremote-control:\n control-enable: no\nzone:\n name: example.test\n zonefile: %q\n",
				strings.Replace(addr, ":", "@", 1), dir, dir+"/nsd/pid", dir+"/nsd/zones", dir+"/nsd/xfrd", dir+"/nsd",
				file)
			return exec.Command(nsd, "-d", "-c", write(dir, "nsd.conf", conf))
		})
	} else {
		b.Log("without NSD: apt install nsd")
	}
	knot, err := exec.LookPath("knotd")
	if err != nil {
		b.Log("without Knot: apt install knot")
	}
	knots := func(module string) func(addr string) *exec.Cmd {
		return func(addr string) *exec.Cmd {
			os.RemoveAll(filepath.Join(dir, "knot"))
			write(dir, "knot/empty", "")
			conf := fmt.Sprintf("server:\n  listen: %s\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n  rundir: %q\n  user: root\n  edns-client-subnet: on\ndatabase:\n  storage: %q\n%szone:\n  - domain: example.test\n    file: %q\n",
				strings.Replace(addr, ":", "@", 1), dir+"/knot", dir+"/knot", module, file)
			if module != "" {
				conf += "    module: mod-geoip/geo\n"
			}
			return exec.Command(knot, "-c", write(dir, "knot.conf", conf))
		}
	}
	if knot != "" {
		add("static/knot", "10.0.0.7", knots(""))
	}

	add("geo+ecs/tierkit", "192.0.2.2", ours("tierkit"))
	if coredns != "" {
		var corefile strings.Builder
		for i, continents := range []string{"'NA', 'SA'", "'EU', 'AF'", "'AS', 'OC', 'AN'"} {
			f := write(dir, fmt.Sprint("zones/geo", i),
				fmt.Sprintf("$ORIGIN example.test.\n$TTL 30\n@ IN SOA ns1 hostmaster 1 3600 600 604800 60\n@ IN NS ns1\nns1 IN A 127.0.0.1\ngeo IN A 192.0.2.%d\n", i+1))
			fmt.Fprintf(&corefile, "example.test:PORT {\n bind 127.0.0.1\n metadata\n geoip %s {\n  edns-subnet\n }\n view v%d {\n  expr metadata('geoip/continent/code') in [%s]\n }\n file %s\n}\n", db, i, continents, f)
		}
		add("geo+ecs/coredns", "192.0.2.2", core(corefile.String()))
	}
	if modules, _ := filepath.Glob("/usr/lib/*/knot/modules*/geoip.so"); knot != "" && len(modules) == 0 {
		b.Log("without Knot's geoip: apt install knot-module-geoip")
	} else if knot != "" {
		write(dir, "geo.conf", "geo.example.test:\n  - geo: \"NA\"\n    A: 192.0.2.1\n  - geo: \"EU\"\n    A: 192.0.2.2\n  - geo: \"AS\"\n    A: 192.0.2.3\n  - geo: \"*\"\n    A: 192.0.2.1\n")
		add("geo+ecs/knot", "192.0.2.2", knots(
			fmt.Sprintf("mod-geoip:\n  - id: geo\n    config-file: %q\n    ttl: 30\n    mode: geodb\n    geodb-file: %q\n    geodb-key: [ continent/code ]\n", dir+"/geo.conf", db)))
	}
	return all
}

// database writes our table of countries as a MaxMind file, so that all answer from the same data.
func database(dir string) string {
	w, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "GeoLite2-City", IncludeReservedNetworks: true})
	check(err)
	var first netip.Addr
	var at mmdbtype.Map
	insert := func(last netip.Addr) {
		if at != nil {
			check(w.InsertRange(first.AsSlice(), last.AsSlice(), at))
		}
	}
	for a, l := range countries.Table().All() {
		if !a.Is4() {
			break
		}
		if first.IsValid() {
			insert(a.Prev())
		}
		first, at = a, nil
		if l.Country != "" {
			at = mmdbtype.Map{
				"country":   mmdbtype.Map{"iso_code": mmdbtype.String(l.Country)},
				"continent": mmdbtype.Map{"code": mmdbtype.String(l.Continent)},
				"location":  mmdbtype.Map{"latitude": mmdbtype.Float64(l.Lat), "longitude": mmdbtype.Float64(l.Lon)},
			}
		}
	}
	insert(netip.AddrFrom4([4]byte{255, 255, 255, 255}))
	name := filepath.Join(dir, "city.mmdb")
	f, err := os.Create(name)
	check(err)
	_, err = w.WriteTo(f)
	check(err)
	check(f.Close())
	return name
}
