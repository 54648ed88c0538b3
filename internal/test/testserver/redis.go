package testserver

import (
	"bufio"
	"context"
	"net"
	"strconv"
	"testing"
)

// RedisServer is one Redis without persistence, or with an append-only file.
type RedisServer struct{ Process }

// RedisOptions describe a server.
type RedisOptions struct {
	// AppendOnly keeps the data over a Restart, with an fsync per write.
	AppendOnly bool
	// Cluster makes it the only node of a cluster, which has no slots yet.
	Cluster bool
}

// Redis starts a server that ends with the test. At most one RedisOptions may be given.
func Redis(t testing.TB, opts ...RedisOptions) *RedisServer {
	t.Helper()
	var o RedisOptions
	if len(opts) > 0 {
		o = opts[0]
	}
	bin := find("redis-server")
	if bin == "" {
		bin = find("valkey-server")
	}
	if bin == "" {
		missing(t, "Redis", "apt-get install redis-server")
	}
	cred := serverUser("redis")
	dir, err := newDir("redis", cred)
	if err != nil {
		t.Fatal(err)
	}
	s := &RedisServer{}
	s.Process.name, s.dir, s.cred, s.port = "redis", dir, cred, freePort()
	aof := "no"
	if o.AppendOnly {
		aof = "yes"
	}
	s.argv = []string{bin, "--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", dir, "--save", "",
		"--appendonly", aof,
		"--appendfsync", "always", "--daemonize", "no"}
	if o.Cluster { // by itself the bus would take a port among those that outgoing connections have
		s.argv = append(s.argv, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(freePort()))
	}
	s.ready = func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", s.Addr())
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("PING\r\n")); err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return err
		}
		if line != "+PONG\r\n" { // still loading its file
			return errNotReady
		}
		return nil
	}
	t.Cleanup(s.remove)
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

// URL for go-redis.
func (s *RedisServer) URL() string { return "redis://" + s.Addr() + "/0" }
