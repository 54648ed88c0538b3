package cdn

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tierkit/tierkit/cdn"
)

// contender is a server to measure.
type contender struct {
	name  string
	least int // smallest object that it is measured with
	cmd   func(dir, addr, origin string) *exec.Cmd
	fills bool // it caches what an origin in another process serves
}

func contenders(b *testing.B) []contender {
	ours := func(role string) func(dir, addr, origin string) *exec.Cmd {
		return func(dir, addr, _ string) *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "CDN_ROLE="+role, "CDN_ADDR="+addr, "CDN_DIR="+dir)
			return cmd
		}
	}
	all := []contender{
		{name: "limit", cmd: ours("limit")},
		{name: "tierkit", cmd: ours("tierkit")},
		{name: "tierkit-disk", least: 100 << 10, cmd: ours("tierkit-disk")},
	}
	if nginx, err := exec.LookPath("nginx"); err == nil {
		all = append(all, contender{name: "nginx", fills: true, cmd: func(dir, addr, origin string) *exec.Cmd {
			conf := filepath.Join(dir, "nginx.conf")
			check(os.WriteFile(conf, []byte(fmt.Sprintf(`
daemon off; worker_processes 2; pid %[1]s/pid; error_log %[1]s/error.log; user root;
events { worker_connections 4096; }
http {
	access_log off; sendfile on; tcp_nopush off; keepalive_requests 1000000000;
	client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	proxy_cache_path %[1]s/cache keys_zone=z:10m max_size=1g inactive=1h;
	open_file_cache max=1000 inactive=1h;
	server { listen %[2]s; location / { proxy_pass http://%[3]s; proxy_cache z; proxy_cache_lock on; } }
}`, dir, addr, origin)), 0o600))
			return exec.Command(nginx, "-c", conf, "-e", dir+"/error.log")
		}})
	} else {
		b.Log("without nginx: apt install nginx")
	}
	if varnish, err := exec.LookPath("varnishd"); err == nil {
		all = append(all, contender{name: "varnish", fills: true, cmd: func(dir, addr, origin string) *exec.Cmd {
			return exec.Command(varnish, "-F", "-n", dir, "-a", addr, "-b", origin, "-s", "malloc,512m", "-T", "none")
		}})
	} else {
		b.Log("without Varnish: apt install varnish")
	}
	return all
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer l.Close()
	return l.Addr().String()
}

// start runs the contender, and an origin for it if it needs one.
func (c contender) start(b *testing.B, size int) (addr string, pid int, stop func()) {
	dir, err := os.MkdirTemp("", "cdn-bench")
	check(err)
	var cmds []*exec.Cmd
	run := func(cmd *exec.Cmd) int {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		check(cmd.Start())
		cmds = append(cmds, cmd)
		return cmd.Process.Pid
	}
	origin := ""
	if c.fills {
		origin = freeAddr()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CDN_ROLE=limit", "CDN_PLAIN=1", "CDN_ADDR="+origin)
		run(cmd)
		await(b, "origin", "http://"+origin+"/"+strconv.Itoa(size), size)
	}
	addr = freeAddr()
	pid = run(c.cmd(dir, addr, origin))
	return addr, pid, func() {
		for _, cmd := range cmds {
			syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			kill := time.AfterFunc(3*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
			cmd.Wait()
			kill.Stop()
		}
		os.RemoveAll(dir)
	}
}

// await asks until the right answer came four times: then it is cached wherever it may be.
func await(b *testing.B, name, url string, size int) {
	good := 0
	var last any
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get(url)
		if last = err; err != nil {
			continue
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if last = fmt.Sprint(res.Status, n, err); err == nil && res.StatusCode == 200 && int(n) == size {
			if good++; good == 4 {
				http.DefaultClient.CloseIdleConnections()
				return
			}
		}
	}
	b.Fatalf("%s does not answer: %v", name, last)
}

// serve is a Go contender, in a process of its own, until it is told to end. The path is the size of the answer.
func serve(role, addr string) {
	if role == "memory" {
		fillMillion()
		return
	}
	bodies := map[string][]byte{}
	lengths := map[string][]string{}
	for _, size := range []int{1 << 10, 100 << 10, 10 << 20} {
		path := "/" + strconv.Itoa(size)
		bodies[path], lengths[path] = bytes.Repeat([]byte("x"), size), []string{strconv.Itoa(size)}
	}
	etag, text, control := []string{`"1"`}, []string{"text/plain"}, []string{"max-age=3600"}
	age, status, date := []string{"1"}, []string{"tierkit; hit; ttl=3599"},
		[]string{time.Now().UTC().Format(http.TimeFormat)}
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header["Content-Type"] = text
		header["Content-Length"] = lengths[r.URL.Path]
		header["Cache-Control"] = control
		header["Etag"] = etag
		// the fields that a hit has, so that both send the same bytes
		if role == "limit" && os.Getenv("CDN_PLAIN") == "" {
			header["Age"], header["Cache-Status"], header["Date"] = age, status, date
		}
		w.Write(bodies[r.URL.Path])
	})
	if strings.HasPrefix(role, "tierkit") {
		o := cdn.Options{MaxBytes: 512 << 20}
		if role == "tierkit-disk" { // filled by one cache, served by another that finds it on disk
			o.Disk = cdn.DiskOptions{Dir: os.Getenv("CDN_DIR"), InPlace: 64 << 10}
			first, err := cdn.New(o)
			check(err)
			for start := time.Now(); first.Stats().DiskObjects < len(bodies) &&
				time.Since(start) < 10*time.Second; time.Sleep(time.Millisecond) {
				for path := range bodies {
					check(first.Warm(context.Background(), first.Handler(h), "http://"+addr+path))
				}
			}
			check(first.Close())
		}
		c, err := cdn.New(o)
		check(err)
		h = c.Handler(h)
	}
	l, err := net.Listen("tcp", addr)
	check(err)
	go http.Serve(l, h)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}
