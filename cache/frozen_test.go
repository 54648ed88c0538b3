//go:build unix

package cache_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/cache"
)

const (
	frozenTTL = 80 * time.Millisecond
	frozenEnv = "TIERKIT_CACHE_READER"
)

// TestFrozenProcess stops a process that reads all the time for longer than its entries live: not one is served past
// its end, although the clock that reads go by says nothing about the pause by itself.
func TestFrozenProcess(t *testing.T) {
	if os.Getenv(frozenEnv) != "" {
		readUntilStdinEnds()
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestFrozenProcess$")
	child.Env = append(os.Environ(), frozenEnv+"=1")
	in, err := child.StdinPipe()
	require.NoError(t, err)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	kill := func() { _ = child.Process.Kill() }
	defer kill()
	defer time.AfterFunc(30*time.Second, kill).Stop()
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	require.Equal(t, "reading", lines.Text())
	for range 8 {
		time.Sleep(30 * time.Millisecond) // it reads, with young entries
		require.NoError(t, child.Process.Signal(syscall.SIGSTOP))
		time.Sleep(2 * frozenTTL)
		require.NoError(t, child.Process.Signal(syscall.SIGCONT))
		require.True(t, lines.Scan(), "it was not stopped")
		require.Equal(t, "paused", lines.Text())
	}
	require.NoError(t, in.Close())
	var reads, late int
	for lines.Scan() { // the machine may have paused it as well, and the test binary says that it passed
		if _, err := fmt.Sscanf(lines.Text(), "%d reads, %d late", &reads, &late); err == nil {
			break
		}
	}
	for lines.Scan() {
	}
	require.NoError(t, child.Wait())
	require.Positive(t, reads)
	require.Zero(t, late, "served past their end, of %d reads", reads)
}

func readUntilStdinEnds() {
	c, err := cache.New(cache.Options[int, int]{TTL: frozenTTL})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	ended := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(ended)
	}()
	fmt.Println("reading")
	var reads, late int
	var ends [64]time.Time // not before the cache's own deadlines
	last := time.Now()
	for i := 0; ; i++ {
		select {
		case <-ended:
			fmt.Printf("%d reads, %d late\n", reads, late)
			return
		default:
		}
		k := i % len(ends)
		now := time.Now()
		if now.Sub(last) > frozenTTL {
			fmt.Println("paused")
		}
		last = now
		if _, ok := c.Get(k); ok {
			reads++
			if !now.Before(ends[k]) {
				late++
			}
		} else {
			c.Set(k, i)
			ends[k] = time.Now().Add(frozenTTL)
		}
	}
}
