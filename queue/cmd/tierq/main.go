// Command tierq looks into the directory of an embedded queue and mends it: what waits, what died, whether the disk has
// damaged anything. The directory must not be in use, except by "snapshot" of a copy: a queue belongs to one process.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tierkit/tierkit/queue"
)

const usage = `tierq looks into the directory of an embedded queue.

Usage: tierq <command> [flags] <directory> [<topic> <group>]

  stats     what waits in each group
  check     verify every checksum; exit code 1 when something is damaged
  peek      show messages that are not settled           <topic> <group>
  dead      show dead letters                            <topic> <group>
  redrive   make dead letters deliverable again          <topic> <group>
  purge     settle everything that waits; with -dead,
            delete the dead letters instead              <topic> <group>
  snapshot  write the queue as one file (-o, "-" is standard output)
  restore   make a directory of a snapshot (-i, "-" is standard input)

Flags of a command: tierq <command> -h. Exit codes: 0 done, 1 failed or damaged, 2 wrong use.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// command is one of the words after tierq.
type command struct {
	group bool // wants a topic and a group
	flags func(*flag.FlagSet, *options)
	run   func(ctx context.Context, c *call) error
}

type options struct {
	n       int
	dead    bool
	yes     bool
	in, out string
}

type call struct {
	options
	dir    string
	q      *queue.Queue
	g      *queue.Group
	stdin  io.Reader
	stdout io.Writer
}

var commands = map[string]command{
	"stats":   {run: stats},
	"check":   {run: check},
	"peek":    {group: true, run: peek, flags: number},
	"dead":    {group: true, run: dead, flags: number},
	"redrive": {group: true, run: redrive, flags: number},
	"purge": {group: true, run: purge, flags: func(f *flag.FlagSet, o *options) {
		f.BoolVar(&o.dead, "dead", false, "delete dead letters, not what waits")
		f.BoolVar(&o.yes, "yes", false, "do not ask")
	}},
	"snapshot": {run: snapshot, flags: func(f *flag.FlagSet, o *options) {
		f.StringVar(&o.out, "o", "-", "file to write")
	}},
	"restore": {run: restore, flags: func(f *flag.FlagSet, o *options) {
		f.StringVar(&o.in, "i", "-", "file to read")
	}},
}

func number(f *flag.FlagSet, o *options) { f.IntVar(&o.n, "n", 20, "how many at most") }

var errDamaged = errors.New("the log is damaged")

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(stderr, usage)
		return map[bool]int{true: 2, false: 0}[len(args) == 0]
	}
	c, known := commands[args[0]]
	if !known {
		fmt.Fprintf(stderr, "tierq: there is no command %q\n\n%s", args[0], usage)
		return 2
	}
	x := call{stdin: stdin, stdout: stdout}
	f := flag.NewFlagSet("tierq "+args[0], flag.ContinueOnError)
	f.SetOutput(stderr)
	if c.flags != nil {
		c.flags(f, &x.options)
	}
	want := "<directory>"
	if c.group {
		want += " <topic> <group>"
	}
	f.Usage = func() {
		fmt.Fprintf(stderr, "Usage: %s [flags] %s\n", f.Name(), want)
		f.PrintDefaults()
	}
	if err := f.Parse(args[1:]); err != nil {
		return map[bool]int{true: 0, false: 2}[errors.Is(err, flag.ErrHelp)]
	}
	if f.NArg() != 1 && !c.group || f.NArg() != 3 && c.group || c.group && f.Name() != "tierq purge" && x.n < 1 {
		f.Usage()
		return 2
	}
	x.dir = f.Arg(0)
	if err := x.open(ctx, c, f.Args()); err != nil {
		fmt.Fprintln(stderr, "tierq:", err)
		return 1
	}
	err := c.run(ctx, &x)
	if x.q != nil {
		err = errors.Join(err, x.q.Close())
	}
	if err != nil {
		fmt.Fprintln(stderr, "tierq:", err)
		return 1
	}
	return 0
}

// open opens the queue for the commands that need one. A mistyped directory, topic or group is an error, and creates
// nothing.
func (c *call) open(ctx context.Context, cmd command, args []string) error {
	if !cmd.group && (c.in != "" || c.out == "") {
		return nil // stats and check read without opening, restore makes the directory
	}
	rep, err := queue.Check(c.dir)
	if err != nil {
		return err
	}
	if rep.Segments == 0 {
		return fmt.Errorf("there is no queue in %s", c.dir)
	}
	if cmd.group && !slices.ContainsFunc(rep.Groups, func(g queue.GroupStats) bool {
		return g.Topic == args[1] && g.Group == args[2]
	}) {
		var have []string
		for _, g := range rep.Groups {
			have = append(have, strconv.Quote(g.Topic)+" "+strconv.Quote(g.Group))
		}
		return fmt.Errorf("there is no group %q of topic %q; there are: %s", args[2], args[1],
			cmp.Or(strings.Join(have, ", "), "none"))
	}
	size := min(max(rep.Bytes/int64(rep.Segments), 256<<10), 1<<30) // as the owner has it
	if c.q, err = queue.Open(c.dir, queue.Options{SegmentBytes: size}); err != nil {
		return err
	}
	if cmd.group {
		c.g, err = c.q.Group(ctx, args[1], args[2], queue.GroupOptions{MaxDeliveries: -1})
	}
	return err
}

func table(w io.Writer, head string) *tabwriter.Writer {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, head)
	return t
}

// text shows bytes that may be anything: what is not printable is escaped, so that a message can't write to the
// terminal.
func text(b []byte) string {
	const most = 200
	if len(b) > most {
		return strconv.Quote(string(b[:most])) + fmt.Sprintf(" and %d bytes more", len(b)-most)
	}
	return strconv.Quote(string(b))
}

func about(m *queue.Message) string {
	var parts []string
	for _, kv := range [][2]string{{"kind", m.Kind}, {"id", m.ID}, {"key", m.Key}} {
		if kv[1] != "" {
			parts = append(parts, kv[0]+"="+strconv.Quote(kv[1]))
		}
	}
	if m.Priority > 0 {
		parts = append(parts, fmt.Sprintf("priority=%d", m.Priority))
	}
	keys := make([]string, 0, len(m.Header))
	for k := range m.Header {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		parts = append(parts, strconv.Quote(k)+":"+strconv.Quote(m.Header[k]))
	}
	return strings.Join(parts, " ")
}

func stats(_ context.Context, c *call) error {
	rep, err := queue.Check(c.dir)
	if err != nil {
		return err
	}
	t := table(c.stdout, "topic\tgroup\tready\tdelayed\tdead\toldest")
	for _, g := range rep.Groups {
		oldest := "-"
		if g.Ready > 0 {
			oldest = time.Duration(g.OldestAge * float64(time.Second)).Round(time.Second).String()
		}
		fmt.Fprintf(t, "%q\t%q\t%d\t%d\t%d\t%s\n", g.Topic, g.Group, g.Ready, g.Delayed, g.Dead, oldest)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "%d messages in %d segments of %d bytes\n", rep.Messages, rep.Segments, rep.Bytes)
	return err
}

func check(_ context.Context, c *call) error {
	rep, err := queue.Check(c.dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%d segments, %d bytes, %d messages, %d of them dead letters\n", rep.Segments, rep.Bytes,
		rep.Messages, rep.Dead)
	if rep.Torn > 0 {
		fmt.Fprintf(c.stdout, "%d bytes at the end were cut off by a crash; they were never acknowledged\n", rep.Torn)
	}
	for _, d := range rep.Damage {
		fmt.Fprintf(c.stdout, "damaged: %s, %d bytes from %d: %s\n", d.File, d.Length, d.Offset, d.What)
	}
	if len(rep.Damage) > 0 {
		return errDamaged
	}
	return nil
}

func peek(ctx context.Context, c *call) error {
	ws, err := c.g.Peek(ctx, c.n)
	if err != nil {
		return err
	}
	t := table(c.stdout, "seq\tstate\tattempts\tpublished\tabout\tbody")
	for i := range ws {
		w := &ws[i]
		state := w.State
		if !w.Until.IsZero() {
			state += " until " + w.Until.Format(time.RFC3339)
		}
		fmt.Fprintf(t, "%d\t%s\t%d\t%s\t%s\t%s\n", w.Seq, state, w.Attempts, w.Published.Format(time.RFC3339),
			about(&w.Message), text(w.Body))
	}
	return t.Flush()
}

func dead(ctx context.Context, c *call) error {
	ls, err := c.g.Dead(ctx, c.n)
	if err != nil {
		return err
	}
	t := table(c.stdout, "seq\tattempts\tdied\treason\tabout\tbody")
	for i := range ls {
		l := &ls[i]
		fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%s\t%s\n", l.Seq, l.Attempts, l.Died.Format(time.RFC3339),
			strconv.Quote(l.Reason), about(&l.Message), text(l.Body))
	}
	return t.Flush()
}

func redrive(ctx context.Context, c *call) error {
	n, err := c.g.Redrive(ctx, c.n)
	if err == nil {
		_, err = fmt.Fprintf(c.stdout, "%d dead letters can be delivered again\n", n)
	}
	return err
}

func purge(ctx context.Context, c *call) error {
	what := "everything that waits"
	if c.dead {
		what = "all dead letters"
	}
	if !c.yes {
		fmt.Fprintf(c.stdout, "Delete %s in group %q of topic %q? Type yes: ", what, c.g.Name(), c.g.Topic())
		answer, _ := bufio.NewReader(c.stdin).ReadString('\n')
		if strings.TrimSpace(answer) != "yes" {
			return errors.New("not purged")
		}
	}
	n, err := 0, error(nil)
	if c.dead {
		n, err = c.g.PurgeDead(ctx, 1<<30)
	} else {
		n, err = c.g.Purge(ctx)
	}
	if err == nil {
		_, err = fmt.Fprintf(c.stdout, "%d messages purged\n", n)
	}
	return err
}

func snapshot(ctx context.Context, c *call) (err error) {
	w := c.stdout
	if c.out != "-" {
		f, err := os.OpenFile(c.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = f.Sync()
			}
			if err = errors.Join(err, f.Close()); err != nil {
				_ = os.Remove(c.out)
			}
		}()
		w = f
	}
	return c.q.Snapshot(ctx, w)
}

func restore(_ context.Context, c *call) error {
	r := c.stdin
	if c.in != "-" {
		f, err := os.Open(c.in)
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	return queue.Restore(bufio.NewReader(r), c.dir)
}
