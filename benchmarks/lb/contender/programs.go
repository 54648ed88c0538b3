package contender

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
)

func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin/", "/usr/local/sbin/"} {
			if _, err := os.Stat(dir + name); err == nil {
				return dir + name, nil
			}
		}
		return "", fmt.Errorf("%s: %w", name, ErrMissing)
	}
	return path, nil
}

func configured(prog, dir, file, text string, args ...string) (*exec.Cmd, error) {
	path, err := program(prog)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	return cmd, nil
}

const nginxHead = `daemon off; %s pid nginx.pid; error_log stderr crit; worker_rlimit_nofile 4096;
events { worker_connections 2048; }
http { access_log off; keepalive_requests 1000000000; sendfile on; tcp_nodelay on;
client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s; client_max_body_size 0;
`

func nginxMode(workers int) string {
	if workers == 1 {
		return "master_process off;"
	}
	return "worker_processes auto; user root;"
}

// nginx as its documentation sets up keep-alive to the backend and WebSockets.
func nginx(workers int) func(dir, listen, backend string) (*exec.Cmd, error) {
	return func(dir, listen, backend string) (*exec.Cmd, error) {
		return configured("nginx", dir, "nginx.conf", fmt.Sprintf(nginxHead+`
map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
upstream b { server %s; keepalive 256; keepalive_requests 1000000000; }
server { listen %s backlog=1024;
location / { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;
proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host; }
} }`, nginxMode(workers), backend, listen), "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	}
}

// Backend answers every request with size bytes: nginx, since it takes the least of the processors that all share.
// "once" is an answer that comes in one write, head and body, as those of application servers do: from memory up to
// 2000 bytes, else from a file. "sendfile" is two writes, so two segments, which wake whoever waits for them twice.
func Backend(size int, how string) Contender {
	return Contender{Name: "backend", run: func(dir, listen, _ string) (*exec.Cmd, error) {
		serve := "try_files /index.html =404;"
		switch {
		case how == "once" && size <= 2000:
			serve = fmt.Sprintf("default_type text/html; return 200 %q;", bytes.Repeat([]byte("x"), size))
		case how == "once":
			serve += " sendfile off;"
		case how != "sendfile":
			return nil, fmt.Errorf("no backend %q of %d bytes", how, size)
		}
		if err := os.WriteFile(filepath.Join(dir, "index.html"), bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return nil, err
		}
		return configured("nginx", dir, "nginx.conf", fmt.Sprintf(nginxHead+`open_file_cache max=10; etag off;
server { listen %s backlog=1024; root %s; location / { %s } } }`, nginxMode(1), listen, dir, serve), "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	}}
}

func haproxy(threads int, mode string) func(dir, listen, backend string) (*exec.Cmd, error) {
	return func(dir, listen, backend string) (*exec.Cmd, error) {
		n, forwarded := "", ""
		if threads > 0 {
			n = fmt.Sprintf("nbthread %d", threads)
		}
		if mode == "http" {
			forwarded = "option forwardfor\n http-reuse always"
		}
		return configured("haproxy", dir, "haproxy.cfg", fmt.Sprintf(`global
 maxconn 4096
 %s
defaults
 mode %s
 timeout connect 2s
 timeout client 60s
 timeout server 60s
 timeout tunnel 600s
 %s
listen l
 bind %s
 server s %s
`, n, mode, forwarded, listen, backend), "-db", "-q", "-f", "haproxy.cfg")
	}
}

func caddy(dir, listen, backend string) (*exec.Cmd, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, err
	}
	return configured("caddy", dir, "Caddyfile", fmt.Sprintf(`{
 admin off
 auto_https off
 log { 
  level ERROR
 }
}
http://:%s {
 bind %s
 reverse_proxy %s {
  transport http {
   keepalive_idle_conns_per_host 256
  }
 }
}
`, port, host, backend), "run", "--config", "Caddyfile", "--adapter", "caddyfile")
}

// own runs this program again in another role, see [Main].
func own(role string) func(dir, listen, backend string) (*exec.Cmd, error) {
	return func(_, listen, backend string) (*exec.Cmd, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), roleVar+"="+role, "LB_LISTEN="+listen, "LB_BACKEND="+backend)
		return cmd, nil
	}
}
