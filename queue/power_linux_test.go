package queue_test

import (
	"bufio"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

// TestPowerCut cuts the power of a file system: the queue lives on a loop-mounted ext4, and what would be on the disk
// at a random moment, without what the kernel has not written yet, is the copy of its image. The queue that is found
// there must have all that was acknowledged before.
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts file systems, which only root may")
	}
	root := t.TempDir()
	image := filepath.Join(root, "disk0")
	run := func(name string, args ...string) error {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Logf("%s %v: %s", name, args, out)
		}
		return err
	}
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 64<<20))
	if run("mkfs.ext4", "-q", "-F", image) != nil {
		t.Skip("no mkfs.ext4 on this machine")
	}
	mounted := map[string]bool{}
	mount := func(image string) string {
		at := image + ".mnt"
		require.NoError(t, os.Mkdir(at, 0o700))
		if run("mount", "-o", "loop", image, at) != nil {
			t.Skip("this machine does not let root mount file systems, as in most containers")
		}
		mounted[at] = true
		return at
	}
	unmount := func(at string) {
		require.NoError(t, run("umount", "-l", at))
		delete(mounted, at)
	}
	t.Cleanup(func() {
		for at := range mounted {
			_ = run("umount", "-l", at)
		}
	})
	o := queue.Options{SegmentBytes: 1 << 20}
	published, acking, acked := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for round := range 6 {
		at := mount(image)
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
		cmd.Env = append(os.Environ(), "TIERKIT_QUEUE_CHILD="+filepath.Join(at, "queue"), "TIERKIT_QUEUE_ROUND="+
			strconv.Itoa(round))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var mu sync.Mutex
		heard, ended := 0, make(chan struct{})
		go func() {
			defer close(ended)
			for lines := bufio.NewScanner(out); lines.Scan(); {
				what, id, ok := strings.Cut(lines.Text(), " ")
				if !ok || !strings.HasSuffix(id, ";") {
					continue
				}
				id = strings.TrimSuffix(id, ";")
				mu.Lock()
				heard++
				switch what {
				case "published":
					published[id] = true
				case "acking":
					acking[id] = true
				case "acked":
					acked[id] = true
				case "error":
					t.Error(id)
				}
				mu.Unlock()
			}
		}()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return heard > 100
		}, 30*time.Second, time.Millisecond)
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) // the cut comes at any moment
		// The process stands still while the image is copied, and what it has said by then is what it has acknowledged.
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		next := filepath.Join(root, "disk"+strconv.Itoa(round+1))
		copyImage(t, image, next)
		require.NoError(t, cmd.Process.Kill())
		<-ended
		_ = cmd.Wait()
		unmount(at)
		image = next
	}
	at := mount(image)
	q, err := queue.Open(filepath.Join(at, "queue"), o)
	require.NoError(t, err)
	defer func() { require.NoError(t, q.Close()) }()
	left := judge(t, q, published, acking, acked)
	require.Greater(t, len(published), 100)
	require.Zero(t, q.Stats().Quarantined, "a cut tail is not damage")
	t.Logf("%d published, %d acknowledged, %d left after 6 cuts", len(published), len(acked), left)
}

// copyImage copies the disk as it was at one moment, though the kernel may go on writing to it: to its journal first,
// and then to where that says. A copy is good if the one after it is the same: then nothing has changed between the end
// of the first and the beginning of the second.
func copyImage(t *testing.T, from, to string) {
	last := [sha256.Size]byte{}
	for range 100 {
		in, err := os.ReadFile(from)
		require.NoError(t, err)
		sum := sha256.Sum256(in)
		if sum == last {
			require.NoError(t, os.WriteFile(to, in, 0o600))
			return
		}
		last = sum
	}
	t.Fatal("the kernel does not stop to write")
}
