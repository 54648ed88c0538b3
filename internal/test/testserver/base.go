package testserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"testing"
)

// base is the directory of this test process; everything that runs inside it (by working directory) belongs to us.
var base struct {
	once sync.Once
	dir  string
	err  error
	seq  int
	mu   sync.Mutex
	// alive is the write end of the reaper's pipe. It is never closed: the kernel does so when this process ends.
	alive *os.File
}

// reaperScript waits until the test process is gone, then kills what works inside the directory and removes it. The
// System V segment of a killed PostgreSQL is named in line 7 of its postmaster.pid.
const reaperScript = `trap '' INT TERM HUP QUIT
base=$1
cat >/dev/null
for round in 1 2 3 4 5; do
  found=
  for p in /proc/[0-9]*; do
    case "$(readlink "$p/cwd" 2>/dev/null)" in
    "$base"/*) kill -9 "${p#/proc/}" 2>/dev/null && found=1 ;;
    esac
  done
  [ -z "$found" ] && break
  sleep 0.05
done
for f in "$base"/*/postmaster.pid; do
  [ -f "$f" ] || continue
  set -- $(sed -n 7p "$f")
  [ -n "$2" ] && ipcrm -m "$2" 2>/dev/null
done
rm -rf "$base"`

func baseDir() (string, error) {
	base.once.Do(func() {
		base.dir, base.err = os.MkdirTemp("", "tierkit-testserver-")
		if base.err != nil {
			return
		}
		// The servers run as their own users when the tests run as root, and must be able to reach their directories.
		if base.err = os.Chmod(base.dir, 0o755); base.err != nil {
			return
		}
		var r *os.File
		if r, base.alive, base.err = os.Pipe(); base.err != nil {
			return
		}
		reaper := exec.Command("/bin/sh", "-c", reaperScript, "tierkit-reaper", base.dir)
		reaper.Stdin = r
		reaper.Dir = "/"
		reaper.SysProcAttr = ownSession(nil) // out of reach of the terminal's interrupt
		base.err = reaper.Start()
		_ = r.Close()
	})
	return base.dir, base.err
}

// newDir makes a directory for one server; it belongs to the user the server runs as.
func newDir(name string, cred *credential) (string, error) {
	root, err := baseDir()
	if err != nil {
		return "", err
	}
	base.mu.Lock()
	base.seq++
	dir := filepath.Join(root, fmt.Sprintf("%s-%d", name, base.seq))
	base.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, chown(dir, cred)
}

func chown(path string, cred *credential) error {
	if cred == nil {
		return nil
	}
	return os.Chown(path, int(cred.Uid), int(cred.Gid))
}

// serverUser is the unprivileged user that a server runs as when the tests run as root; nil otherwise.
func serverUser(names ...string) *credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, n := range append(names, "nobody") {
		u, err := user.Lookup(n)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
}

// Listen listens on a loopback port below the ephemeral range: when it is closed no outgoing connection takes the port,
// so that a test may listen there again.
func Listen() net.Listener {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(12000+rand.IntN(20000)))
		if err == nil {
			return l
		}
	}
}

// freePort is for a server that is killed and started again.
func freePort() int {
	l := Listen()
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// find returns the path of a binary from PATH or the given globs; the newest version wins.
func find(name string, globs ...string) string {
	for _, g := range globs {
		if m, _ := filepath.Glob(filepath.Join(g, name)); len(m) > 0 {
			sort.Strings(m)
			return m[len(m)-1]
		}
	}
	p, _ := exec.LookPath(name)
	return p
}

// missing skips the test, or fails it when servers are required.
func missing(t testing.TB, what, install string) {
	t.Helper()
	msg := fmt.Sprintf("testserver: no %s on this machine; install it with: %s", what, install)
	if os.Getenv("TIERKIT_REQUIRE_SERVERS") == "1" {
		t.Fatal(msg)
	}
	t.Skip(msg)
}
