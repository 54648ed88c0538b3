//go:build unix

package rediscache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/cache/rediscache"
	"github.com/tierkit/tierkit/internal/test/testserver"
)

const (
	nodeEnv   = "TIERKIT_REDISCACHE_NODE" // its number: this process is a node of TestTwoProcesses
	sharedEnv = "TIERKIT_REDISCACHE_SHARED"
	redisEnv  = "TIERKIT_REDISCACHE_REDIS"

	sharedLen = 1 << 16
	firstCold = 1000 // keys from here on are asked for once, by everybody at the same time
	coldKeys  = 4000
)

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(nodeEnv)); err == nil {
		if err := runNode(n); err != nil {
			fmt.Println("fault:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// world is memory that the processes share: the system of record, what was acknowledged to anybody, and how far each
// process is.
type world struct {
	source, acked [8]atomic.Int64
	changes       atomic.Int64 // acknowledged
	loads         [coldKeys]atomic.Int64
	nodes         [2]struct{ reads, firstTier, untrusted, remoteErrors, acks atomic.Int64 }
}

func openWorld(path string) (*world, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(sharedLen); err != nil {
		return nil, err
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, sharedLen, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	if unsafe.Sizeof(world{}) > sharedLen {
		return nil, fmt.Errorf("world has %d bytes", unsafe.Sizeof(world{}))
	}
	return (*world)(unsafe.Pointer(&b[0])), nil
}

// runNode is the main function of a node: it reads and changes keys until its input ends, and asks for cold keys on
// command.
func runNode(number int) error {
	w, err := openWorld(os.Getenv(sharedEnv))
	if err != nil {
		return err
	}
	c := redis.NewClient(&redis.Options{Addr: os.Getenv(redisEnv), MaxRetries: -1, DialTimeout: time.Second})
	r, err := rediscache.New(c, rediscache.Options{Lease: patience, Confirm: 500 * time.Millisecond,
		Timeout: 400 * time.Millisecond})
	if err != nil {
		return err
	}
	l1, err := cache.New(cache.Options[int, int]{TTL: time.Hour})
	if err != nil {
		return err
	}
	tier, err := cache.NewTiered(l1, r, cache.TieredOptions[int, int]{WaitFor: patience})
	if err != nil {
		return err
	}
	me := &w.nodes[number]
	publish := func() {
		s := tier.Stats()
		me.firstTier.Store(s.L1Hits)
		me.untrusted.Store(s.Untrusted)
		me.remoteErrors.Store(s.RemoteErrors)
	}
	for range 3 {
		go func() {
			for {
				w.read(rand.IntN(8), tier)
				me.reads.Add(1)
				publish()
			}
		}()
	}
	go func() {
		for {
			k := rand.IntN(8)
			v := w.source[k].Add(1)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			err := tier.Drop(ctx, k)
			cancel()
			if err == nil {
				raise(&w.acked[k], v)
				w.changes.Add(1)
				me.acks.Add(1)
			}
			time.Sleep(2 * time.Millisecond) // most reads should find something
		}
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); { // "ask first count"
		var first, count int
		if _, err := fmt.Sscanf(in.Text(), "ask %d %d", &first, &count); err != nil {
			return err
		}
		before := tier.Stats().RemoteErrors
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for k := first; k < first+count; k++ {
					_, err := tier.Load(context.Background(), k, func(context.Context, int) (int, error) {
						w.loads[k-firstCold].Add(1)
						time.Sleep(time.Millisecond)
						return k, nil
					})
					if err != nil {
						fmt.Println("fault:", err)
					}
				}
			})
		}
		wg.Wait()
		publish()
		fmt.Println("asked", tier.Stats().RemoteErrors-before)
	}
	return nil // the end of the process ends everything else
}

func raise(a *atomic.Int64, v int64) {
	for o := a.Load(); o < v && !a.CompareAndSwap(o, v); o = a.Load() {
	}
}

// read checks the promise: a read that begins after a change was acknowledged, to whichever process, does not return an
// older value.
func (w *world) read(k int, tier *cache.Tiered[int, int]) {
	floor := w.acked[k].Load()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := tier.Load(ctx, k, func(context.Context, int) (int, error) {
		v := w.source[k].Load()
		time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		return int(v), nil
	})
	switch {
	case err != nil:
		fmt.Printf("fault: key %d: %v\n", k, err)
	case int64(v) < floor:
		fmt.Printf("fault: key %d: read version %d after %d was acknowledged\n", k, v, floor)
	}
}

type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	asked  chan int
	faults chan string // cap 1: the first
}

func startNode(t *testing.T, number int, shared, addr string) *process {
	exe, err := os.Executable()
	require.NoError(t, err)
	p := &process{cmd: exec.Command(exe, "-test.run=^$"), asked: make(chan int, 1), faults: make(chan string, 1)}
	p.cmd.Env = append(os.Environ(), nodeEnv+"="+strconv.Itoa(number), sharedEnv+"="+shared, redisEnv+"="+addr)
	p.cmd.Stderr = os.Stderr
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			var n int
			if _, err := fmt.Sscanf(s.Text(), "asked %d", &n); err == nil {
				p.asked <- n
				continue
			}
			select {
			case p.faults <- s.Text():
			default:
			}
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-read
		_ = p.cmd.Wait()
	})
	return p
}

// Two processes share one Redis, which is frozen, thawed, killed and started again while both read and change; then one
// process is stopped while the other goes on. Throughout, no process serves a value older than the last change that was
// acknowledged to either, and in every quiet time a cold key that both ask for is loaded once.
func TestTwoProcesses(t *testing.T) {
	server := testserver.Redis(t)
	path := filepath.Join(t.TempDir(), "world")
	w, err := openWorld(path)
	require.NoError(t, err)
	nodes := []*process{startNode(t, 0, path, server.Addr()), startNode(t, 1, path, server.Addr())}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
			for i, p := range nodes {
				select {
				case f := <-p.faults:
					t.Fatalf("process %d: %s", i, f)
				default:
				}
			}
			if time.Now().After(end) {
				t.Fatalf("%s: not within %v", what, patience)
			}
		}
	}
	each := func(f func(i int) int64) (now [2]int64) { return [2]int64{f(0), f(1)} }
	grow := func(what string, by int64, f func(i int) int64, which ...int) {
		t.Helper()
		before := each(f)
		wait(what, func() bool {
			for _, i := range which {
				if f(i) < before[i]+by {
					return false
				}
			}
			return true
		})
	}
	hits := func(i int) int64 { return w.nodes[i].firstTier.Load() }
	acks := func(i int) int64 { return w.nodes[i].acks.Load() }
	reads := func(i int) int64 { return w.nodes[i].reads.Load() }
	untrusted := func(i int) int64 { return w.nodes[i].untrusted.Load() }
	errs := func(i int) int64 { return w.nodes[i].remoteErrors.Load() }
	healthy := func(when string) {
		t.Helper()
		grow(when+": both change keys with acknowledgement", 20, acks, 0, 1)
		grow(when+": both trust their first tier", 20, hits, 0, 1)
	}
	next := firstCold
	oneLoad := func(when string) {
		t.Helper()
		const count = 20
		// a busy machine may make an operation time out, and then a second load is right
		for end := time.Now().Add(patience); ; {
			first := next
			next += count
			require.LessOrEqual(t, next, firstCold+coldKeys)
			failed := 0
			for _, p := range nodes {
				_, err := fmt.Fprintln(p.in, "ask", first, count)
				require.NoError(t, err)
			}
			for i, p := range nodes {
				select {
				case n := <-p.asked:
					failed += n
				case <-time.After(2 * patience):
					t.Fatalf("%s: process %d does not answer", when, i)
				}
			}
			if failed == 0 {
				for k := first; k < next; k++ {
					require.EqualValues(t, 1, w.loads[k-firstCold].Load(), "%s: loads of key %d", when, k)
				}
				return
			}
			require.False(t, time.Now().After(end), "%s: no quiet time", when)
		}
	}

	healthy("at the start")
	oneLoad("at the start")

	server.Freeze()
	grow("frozen: both notice", 1, untrusted, 0, 1)
	grow("frozen: operations fail", 1, errs, 0, 1)
	grow("frozen: both still read", 20, reads, 0, 1)
	server.Thaw()
	healthy("thawed")
	oneLoad("thawed")

	server.Kill()
	grow("killed: both notice", 1, untrusted, 0, 1)
	grow("killed: both still read", 20, reads, 0, 1)
	require.NoError(t, server.Restart(t.Context()))
	healthy("restarted")
	oneLoad("restarted")

	require.NoError(t, nodes[1].cmd.Process.Signal(syscall.SIGSTOP))
	grow("one process stopped: changes of the other are acknowledged", 3, acks, 0)
	require.NoError(t, nodes[1].cmd.Process.Signal(syscall.SIGCONT))
	healthy("continued")
	oneLoad("continued")

	require.NoError(t, nodes[1].cmd.Process.Kill())
	grow("one process killed: changes of the other are acknowledged", 20, acks, 0)
	grow("one process killed: the other trusts its first tier", 20, hits, 0)
}
