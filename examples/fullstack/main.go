// Fullstack runs every package of tierkit as one service in one process: from DNS to database, in two data centers.
// With -replay it plays a web server's log against it as thousands of clients would, with -chaos it breaks things
// meanwhile, and in the end it compares what clients were promised with what is stored.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/tierkit/tierkit/examples/fullstack/assemble"
	"github.com/tierkit/tierkit/examples/fullstack/drill"
	"github.com/tierkit/tierkit/examples/fullstack/proof"
	"github.com/tierkit/tierkit/examples/fullstack/proof/accesslog"
	"github.com/tierkit/tierkit/examples/fullstack/proof/player"
	"github.com/tierkit/tierkit/examples/fullstack/room"
	"github.com/tierkit/tierkit/examples/fullstack/site"
	"github.com/tierkit/tierkit/examples/fullstack/visitors"
)

//go:embed sample.log
var sample []byte

// config is what the flags say.
type config struct {
	data, replay, report string
	rate                 float64
	duration             time.Duration
	chaos, verbose, open bool
	visitors             int
	site, dns, admin     int
	mutant               assemble.Mutant // a deliberate defect; set by tests only
	drills               []string        // only these; set by tests only
	started              func(*assemble.Stack)
}

const usage = `usage: fullstack [flags]

Starts the whole service on loopback and serves until interrupted. With -replay it plays a log instead, prints a report,
and exits 0 only if the books balance, no session is lost, and no error reached a client outside of the window of an
injected failure; 1 if not; 2 if it could not start.

`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	c, err := parseFlags(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "fullstack: %v\n", err)
		return 2
	}
	return c.run(stdout, stderr)
}

func parseFlags(args []string, stderr io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("fullstack", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&c.data, "data", "", "`directory` that keeps all files; a temporary one by default")
	fs.StringVar(&c.replay, "replay", "", "play this `file` in the combined log format (\"sample\": the small one built in)")
	fs.StringVar(&c.report, "report", "", "write the report as JSON to this `file`")
	fs.Float64Var(&c.rate, "rate", 0, "requests per `second`; by default the whole file in 30 s")
	fs.DurationVar(&c.duration, "duration", 0, "end the play after this time, repeating the file where it is too short")
	fs.BoolVar(&c.chaos, "chaos", false, "break one of each redundant tier meanwhile, then a whole data center")
	fs.IntVar(&c.visitors, "visitors", 30, "`number` of simulated visitors, without -replay; 0: none")
	fs.BoolVar(&c.open, "open", false, "open the site in a browser")
	fs.BoolVar(&c.verbose, "v", false, "print the log of the service")
	fs.IntVar(&c.site, "site", 8080, "`port` of the site, on 127.1.0.1, 127.1.0.2, 127.2.0.1 and 127.2.0.2 (or four ports on 127.0.0.1); 0: free")
	fs.IntVar(&c.dns, "dns", 5300, "first `port` of the two name servers on 127.0.0.1; 0: free ones")
	fs.IntVar(&c.admin, "admin", 9090, "`port` of dashboard and metrics on 127.0.0.1; 0: a free one")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stderr, usage)
		fs.SetOutput(stderr)
		fs.PrintDefaults()
		return c, err
	}
	switch {
	case err != nil:
		return c, err
	case fs.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q; see -h", fs.Arg(0))
	case c.replay == "" && (c.chaos || c.report != "" || c.rate != 0 || c.duration != 0):
		return c, errors.New("-rate, -duration, -chaos and -report need -replay")
	case c.rate < 0 || c.rate > 100_000:
		return c, errors.New("-rate must be between 0 and 100000")
	case c.visitors < 0 || c.visitors > 1000:
		return c, errors.New("-visitors must be between 0 and 1000")
	case c.duration < 0:
		return c, errors.New("-duration must not be negative")
	}
	for name, p := range map[string]int{"site": c.site, "dns": c.dns, "admin": c.admin} {
		if p < 0 || p > 65534 {
			return c, fmt.Errorf("-%s must be a port between 0 and 65534", name)
		}
	}
	return c, nil
}

// run starts everything and returns the exit code.
func (c config) run(stdout, stderr io.Writer) int {
	failed := func(err error) int {
		fmt.Fprintf(stderr, "fullstack: %v\n", err)
		return 2
	}
	log, err := c.readLog()
	if err != nil {
		return failed(err)
	}
	if c.chaos && c.playTime(log) < minChaos {
		return failed(fmt.Errorf("-chaos needs a play of at least %v: this one takes %v, see -rate and -duration",
			minChaos, c.playTime(log).Round(time.Second)))
	}
	if c.report != "" { // better refused now than after the play
		f, err := os.OpenFile(c.report, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return failed(err)
		}
		f.Close()
	}
	dir := c.data
	if dir == "" {
		if dir, err = os.MkdirTemp("", "fullstack-"); err != nil {
			return failed(err)
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return failed(err)
	}
	out, level := io.Discard, slog.LevelInfo
	if c.verbose {
		out, level = stderr, slog.LevelDebug
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	s, err := assemble.Start(ctx, assemble.Options{Dir: dir, Catalog: log.Site(), Site: c.site, DNS: c.dns,
		Admin: c.admin,
		Log:   slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}), Mutant: c.mutant})
	if err != nil {
		return failed(err)
	}
	defer s.Close()
	c.announce(stdout, s)
	if c.started != nil {
		c.started(s)
	}
	if c.replay == "" {
		return c.serve(ctx, cancel, s, stdout, stderr)
	}
	code, err := c.play(ctx, s, log, dir, stdout, stderr)
	if err != nil && ctx.Err() != nil {
		fmt.Fprintln(stderr, "fullstack: interrupted")
		return 130
	}
	if err != nil {
		return failed(err)
	}
	return code
}

// minChaos is the shortest play in which all drills have their time.
const minChaos = 25 * time.Second

// readLog returns the log to play; without -replay there is none.
func (c config) readLog() (*accesslog.Log, error) {
	switch c.replay {
	case "":
		return &accesslog.Log{}, nil
	case "sample":
		return accesslog.Read(bytes.NewReader(sample))
	}
	f, err := os.Open(c.replay)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := accesslog.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.replay, err)
	}
	return l, nil
}

func (c config) playTime(log *accesslog.Log) time.Duration {
	switch {
	case c.duration > 0:
		return c.duration
	case c.rate > 0:
		return time.Duration(float64(len(log.Entries)) / c.rate * float64(time.Second))
	}
	return 30 * time.Second
}

// announce says in at most ten lines where to look.
func (c config) announce(w io.Writer, s *assemble.Stack) {
	a := s.Addresses()
	_, port, _ := net.SplitHostPort(a.NameServers[0])
	where := ""
	if s.OneAddress() {
		where = " (this machine has one loopback address: the four edges have ports of their own on it)"
	}
	fmt.Fprintf(w, "%-32s the site: open this%s\n", a.Site, where)
	fmt.Fprintf(w, "%-32s the control room; what is behind # allows its buttons\n", s.ControlRoom())
	fmt.Fprintf(w, "%-32s metrics for Prometheus\n", a.Metrics)
	fmt.Fprintf(w, "%-32s names: dig @127.0.0.1 -p %s %s +subnet=8.8.8.0/24\n", strings.Join(a.NameServers, " "), port,
		assemble.Host)
	fmt.Fprintln(w, "still single in this mode:")
	for _, p := range s.SinglePoints() {
		fmt.Fprintln(w, "  -", p)
	}
}

// serve lets visitors in and waits for an interrupt, then drains; a second one ends at once.
func (c config) serve(ctx context.Context, stop func(), s *assemble.Stack, stdout, stderr io.Writer) int {
	population, err := c.population(s)
	if err != nil {
		fmt.Fprintf(stderr, "fullstack: %v\n", err)
		return 2
	}
	leaving, leave := context.WithCancel(ctx)
	var gone sync.WaitGroup
	gone.Go(func() { population.Run(leaving) })
	defer leave()
	operator := room.New(leaving, s, population)
	s.Operate(operator)
	if c.open {
		if err := openBrowser(s.Addresses().Site); err != nil {
			fmt.Fprintf(stderr, "fullstack: -open: %v\n", err)
		}
	}
	fmt.Fprintf(stdout, "serving %d visitors; interrupt to stop\n", c.visitors)
	<-ctx.Done()
	stop() // the next signal has its usual effect: the end
	fmt.Fprintln(stdout, "draining; interrupt again to end at once")
	leave()
	gone.Wait()
	operator.Wait()
	drain, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(drain); err != nil {
		fmt.Fprintf(stderr, "fullstack: %v\n", err)
		return 1
	}
	return 0
}

// population makes the visitors: their addresses are those of real clients, half of them near each data center.
func (c config) population(s *assemble.Stack) (*visitors.Population, error) {
	log, err := accesslog.Read(bytes.NewReader(sample))
	if err != nil {
		return nil, err
	}
	places := map[string]*visitors.Place{
		assemble.East: {Region: assemble.East, Noon: 0.05},
		assemble.West: {Region: assemble.West, Noon: 0.80}, // five hours earlier
	}
	seen := map[netip.Addr]bool{}
	for _, e := range log.Entries {
		if p := places[s.Region(e.Client)]; p != nil && !seen[e.Client] {
			seen[e.Client] = true
			p.Addresses = append(p.Addresses, e.Client)
		}
	}
	popular, err := site.Popular()
	if err != nil {
		return nil, err
	}
	return visitors.New(visitors.Options{Count: c.visitors, Network: s.Network(), Chapters: popular,
		Places: []visitors.Place{*places[assemble.East], *places[assemble.West]}})
}

// openBrowser shows a page in the browser of whoever started the program.
func openBrowser(url string) error {
	name, args := "xdg-open", []string{url}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", url}
	}
	return exec.Command(name, args...).Start()
}

func (c config) play(ctx context.Context, s *assemble.Stack, log *accesslog.Log, dir string, stdout,
	stderr io.Writer) (int, error) {
	ledger, err := player.OpenLedger(filepath.Join(dir, "ledger.jsonl"))
	if err != nil {
		return 0, err
	}
	defer ledger.Close()
	if p, _ := ledger.Promises(); p.ViewsTotal+len(p.Writes) > 0 {
		fmt.Fprintf(stdout, "going on with %d acknowledged views and %d acknowledged writes of earlier plays\n",
			p.ViewsTotal, len(p.Writes))
	}
	a := s.Addresses()
	p := player.New(player.Config{Log: log, Catalog: log.Site(), Ledger: ledger, Rate: c.rate, Duration: c.duration,
		Network: s.Network(), Region: s.Region, Direct: a.Direct, DirectCenter: assemble.East,
		Progress: progress(stderr)})

	var failovers []drill.Failover
	var chaosErr error
	var wg sync.WaitGroup
	chaos, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.chaos || c.drills != nil {
		wg.Go(func() {
			failovers, chaosErr = drill.Run(chaos, s,
				drill.Hooks{Start: time.Now(), Writing: p.Writing, Only: c.drills},
				c.playTime(log))
		})
	}
	result, err := p.Run(ctx)
	if err != nil {
		return 0, err
	}
	wg.Wait()
	if chaosErr != nil {
		return 0, chaosErr
	}
	idle, done := context.WithTimeout(ctx, 60*time.Second)
	defer done()
	left, err := s.WaitIdle(idle)
	if err != nil && left == 0 {
		return 0, err
	}
	down, stop := context.WithTimeout(ctx, 15*time.Second)
	defer stop()
	_ = s.WaitScaledDown(down) // the report says how many are left
	sessions, lost := p.Sessions(ctx)
	books, err := proof.Audit(ctx, s.Shards())
	if err != nil {
		return 0, err
	}
	promises, err := ledger.Promises()
	if err != nil {
		return 0, err
	}
	r := proof.Make(result.Summary(), promises, books, s.Figures(), s.Scaling(), failovers, sessions, lost)
	r.Malformed = log.Malformed
	if left > 0 {
		r.Wrong("%d messages were not settled within a minute", left)
	}
	if equal, err := s.ReplicasEqual(ctx); err != nil || !equal {
		r.Wrong("the database nodes of a shard differ (%v)", err)
	}
	r.Balanced = len(r.Imbalances) == 0
	r.Print(stdout)
	if c.report != "" {
		if err := r.Save(c.report); err != nil {
			return 0, err
		}
	}
	if !r.OK() {
		return 1, nil
	}
	return 0, nil
}

// progress draws a bar on a terminal, and nothing elsewhere.
func progress(w io.Writer) func(sent, total int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func(sent, total int) {
		const width = 40
		full := width * sent / total
		fmt.Fprintf(f, "\r[%s%s] %3d %% %d of %d requests", strings.Repeat("=", full), strings.Repeat(" ", width-full),
			100*sent/total, sent, total)
		if sent == total {
			fmt.Fprintln(f)
		}
	}
}
