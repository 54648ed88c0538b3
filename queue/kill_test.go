package queue_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/queue"
)

// TestKilledProcess kills a process that publishes and consumes, with kill -9, at random points, again and again on one
// directory. What it told us was acknowledged must be true: every published message is delivered or was acknowledged,
// none comes back after its ack.
func TestKilledProcess(t *testing.T) {
	if dir := os.Getenv("TIERKIT_QUEUE_CHILD"); dir != "" {
		child(dir)
		return
	}
	dir := t.TempDir()
	published, acking, acked := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
		cmd.Env = append(os.Environ(), "TIERKIT_QUEUE_CHILD="+dir, "TIERKIT_QUEUE_ROUND="+strconv.Itoa(round))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		kill := func() { cmd.Process.Kill() }
		timer := time.AfterFunc(time.Minute, kill) // unless it gets to work
		lines := bufio.NewScanner(out)
		for working := false; lines.Scan(); {
			if !working && len(published) > 20*round+20 && len(acked) > 5*round+5 {
				working = true
				timer.Stop()
				// any moment of its work will do
				timer = time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, kill)
			}
			what, id, ok := strings.Cut(lines.Text(), " ")
			if !ok || !strings.HasSuffix(id, ";") {
				continue // cut off
			}
			id = strings.TrimSuffix(id, ";")
			switch what {
			case "published":
				published[id] = true
			case "acking":
				acking[id] = true
			case "acked":
				acked[id] = true
			case "again":
				require.False(t, acked[id], "delivered after its ack: %s", id)
			case "error":
				t.Fatal(id)
			}
		}
		timer.Stop()
		_ = cmd.Wait()
	}
	require.Greater(t, len(published), 100)
	require.Greater(t, len(acked), 20)
	q := open(t, dir, queue.Options{})
	left := judge(t, q, published, acking, acked)
	t.Logf("%d published, %d acknowledged, %d left", len(published), len(acked), left)
}

// judge holds a queue after a crash against what was acknowledged before: every message is there, or its consumer was
// about to settle it; none comes twice or after its ack. It returns how many are left.
func judge(t *testing.T, q *queue.Queue, published, acking, acked map[string]bool) int {
	g := group(t, q, queue.GroupOptions{MaxDeliveries: -1})
	l, err := g.Lag(t.Context())
	require.NoError(t, err)
	left := map[string]bool{}
	for _, d := range fetchN(t, g, l.Ready) {
		id := string(d.Body[:strings.IndexByte(string(d.Body), ' ')])
		require.False(t, left[id], "twice: %s", id)
		require.False(t, acked[id], "delivered after its ack: %s", id)
		left[id] = true
	}
	for id := range published {
		require.True(t, left[id] || acking[id], "lost: %s", id)
	}
	return len(left)
}

// child says what it has done, one line each, in one write.
func child(dir string) {
	say := func(format string, a ...any) { os.Stdout.WriteString(fmt.Sprintf(format, a...) + ";\n") }
	ctx := context.Background()
	q, err := queue.Open(dir, queue.Options{SegmentBytes: small})
	if err != nil {
		say("error %v", err)
		os.Exit(1)
	}
	g, err := q.Group(ctx, "t", "g", queue.GroupOptions{MaxDeliveries: -1})
	if err != nil {
		say("error %v", err)
		os.Exit(1)
	}
	for p := range 4 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv("TIERKIT_QUEUE_ROUND"), p, i)
				if _, err := q.Publish(ctx, queue.Message{Topic: "t", ID: id,
					Body: []byte(id + " " + strings.Repeat("x", rand.IntN(2000)))}); err != nil {
					say("error %v", err)
				}
				say("published %s", id)
			}
		}()
	}
	for {
		ds, err := g.Fetch(ctx, 10)
		if err != nil {
			say("error %v", err)
			os.Exit(1)
		}
		for _, d := range ds {
			say("again %s", d.ID)
			if rand.IntN(4) == 0 {
				_ = d.Nack(ctx, 0)
				continue
			}
			say("acking %s", d.ID)
			if err := d.Ack(ctx); err == nil {
				say("acked %s", d.ID)
			}
		}
	}
}
