package cache_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
	"pgregory.net/rapid"

	"github.com/tierkit/tierkit/cache"
)

func openBack(t *testing.T, s cache.Store[string, int], o cache.BackOptions, dir string) *cache.Back[string, int] {
	t.Helper()
	b, err := cache.OpenBack(newCache(t, cache.Options[string, int]{}), s, o,
		cache.Journal[string, int]{Dir: dir, SegmentBytes: 64 << 10})
	require.NoError(t, err)
	return b
}

// What the store did not take is pending at the next open, and what was parked is parked.
func TestJournalOutlivesTheBack(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	away := &table{rows: map[string]int{"gone": 7}, fail: errors.New("down")}
	b := openBack(t, away, cache.BackOptions{Attempts: 1, Delay: -1}, dir)
	require.NoError(t, b.Set(ctx, "poison", 1))
	require.NoError(t, b.Flush(ctx))
	require.Len(t, b.Parked(), 1)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorContains(t, b.Close(ended), "1 keys")

	b = openBack(t, away, cache.BackOptions{Attempts: -1, Delay: time.Hour}, dir)
	require.ErrorContains(t, b.Parked()["poison"], "down")
	for i := range 10 {
		require.NoError(t, b.Set(ctx, "a", i))
	}
	require.NoError(t, b.Delete(ctx, "gone"))
	v, err := b.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, 9, v)
	require.ErrorContains(t, b.Close(ended), "3 keys")
	require.ErrorIs(t, b.Set(ctx, "a", 1), cache.ErrClosed)

	s := &table{rows: map[string]int{"gone": 7}}
	b = openBack(t, s, cache.BackOptions{}, dir)
	require.Equal(t, int64(3), b.Stats().Replayed)
	require.Equal(t, int64(1), b.Stats().Parked)
	_, err = b.Get(ctx, "gone")
	require.ErrorIs(t, err, cache.ErrNotFound, "read as it will be")
	require.NoError(t, b.Flush(ctx))
	require.Equal(t, []string{"a9"}, s.sets, "the newest only")
	require.Zero(t, s.row("gone"))
	v, err = b.Get(ctx, "poison")
	require.NoError(t, err)
	require.Equal(t, 1, v)
	b.Retry()
	require.NoError(t, b.Close(ctx))
	require.NoError(t, b.Close(ctx))
	require.Equal(t, 1, s.row("poison"))

	b = openBack(t, s, cache.BackOptions{}, dir)
	require.Zero(t, b.Stats().Replayed)
	_, err = cache.OpenBack(newCache(t, cache.Options[string, int]{}), s, cache.BackOptions{},
		cache.Journal[string, int]{Dir: dir})
	require.ErrorIs(t, err, cache.ErrJournalLocked)
	require.NoError(t, b.Close(ctx))
}

func TestJournalOptions(t *testing.T) {
	c, s := newCache(t, cache.Options[string, int]{}), &table{rows: map[string]int{}}
	_, err := cache.OpenBack(c, s, cache.BackOptions{}, cache.Journal[string, int]{})
	require.ErrorContains(t, err, "Dir")
	_, err = cache.OpenBack(c, s, cache.BackOptions{MaxParked: -1}, cache.Journal[string, int]{Dir: t.TempDir()})
	require.ErrorContains(t, err, "MaxParked")

	// A journal of other types is refused, and stays.
	dir := t.TempDir()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s.fail = errors.New("down")
	b := openBack(t, s, cache.BackOptions{Delay: time.Hour}, dir)
	require.NoError(t, b.Set(t.Context(), "text", 1))
	require.Error(t, b.Close(ended))
	other, err := cache.New(cache.Options[int, int]{})
	require.NoError(t, err)
	_, err = cache.OpenBack(other, cache.Funcs[int, int]{}, cache.BackOptions{}, cache.Journal[int, int]{Dir: dir})
	require.ErrorContains(t, err, "key")
	s.fail = nil
	b = openBack(t, s, cache.BackOptions{}, dir)
	require.NoError(t, b.Close(t.Context()))
	require.Equal(t, 1, s.row("text"))
}

// A value that is too large is refused, and takes nobody with it.
func TestJournalTooLarge(t *testing.T) {
	c, err := cache.New(cache.Options[string, []byte]{})
	require.NoError(t, err)
	stored := map[string]int{}
	b, err := cache.OpenBack(c, cache.Funcs[string, []byte]{SetFunc: func(_ context.Context, k string, v []byte) error {
		stored[k] = len(v)
		return nil
	}}, cache.BackOptions{Workers: 1}, cache.Journal[string, []byte]{Dir: t.TempDir(), Value: cache.Bytes{},
		SegmentBytes: 64 << 10})
	require.NoError(t, err)
	require.ErrorIs(t, b.Set(t.Context(), "k", make([]byte, 20<<10)), cache.ErrTooLarge)
	require.NoError(t, b.Set(t.Context(), "k", make([]byte, 10<<10)))
	require.NoError(t, b.Close(t.Context()))
	require.Equal(t, map[string]int{"k": 10 << 10}, stored)
}

// Parked keys are bounded: a store that is away stops the writers, and does not fill the memory.
func TestParkedIsBounded(t *testing.T) {
	s := &table{fail: errors.New("down")}
	c := newCache(t, cache.Options[string, int]{})
	b, err := cache.NewBack(c, s, cache.BackOptions{Attempts: 1, Delay: -1, MaxPending: 3, MaxParked: 2,
		RetryBase: time.Millisecond, RetryMax: time.Millisecond})
	require.NoError(t, err)
	for i := range 5 {
		require.NoError(t, b.Set(t.Context(), strconv.Itoa(i), i))
	}
	require.Eventually(t, func() bool {
		return len(b.Parked()) == 2 && b.Pending() == 3
	}, 20*time.Second, time.Millisecond)
	full, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, b.Set(full, "more", 1), context.DeadlineExceeded)
	s.mu.Lock()
	s.rows, s.fail = map[string]int{}, nil
	s.mu.Unlock()
	require.Eventually(t, func() bool { // an attempt that had begun before may fail, and be parked, after a Retry
		b.Retry()
		return b.Pending() == 0 && len(b.Parked()) == 0
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, b.Close(t.Context()))
	require.Len(t, s.rows, 5)
}

// rows is a table of SQLite that refuses to go back: a value smaller than the one it has is an error that says so.
type rows struct{ db *sql.DB }

func openRows(path string) (*rows, error) {
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = db.Exec(`CREATE TABLE IF NOT EXISTS rows (k TEXT PRIMARY KEY, v INTEGER NOT NULL); CREATE TABLE IF NOT EXISTS backward (k TEXT, was INTEGER, v INTEGER)`)
	return &rows{db}, err
}

func (r *rows) Get(ctx context.Context, k string) (v int, err error) {
	err = r.db.QueryRowContext(ctx, `SELECT v FROM rows WHERE k = ?`, k).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		err = cache.ErrNotFound
	}
	return v, err
}

func (r *rows) Set(ctx context.Context, k string, v int) error {
	if k == "poison" {
		return errors.New("the store cannot take this one")
	}
	if was, err := r.Get(ctx, k); err == nil && was > v {
		_, err = r.db.ExecContext(ctx, `INSERT INTO backward VALUES (?, ?, ?)`, k, was, v)
		return err
	}
	_, err := r.db.ExecContext(ctx, `INSERT INTO rows VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v`, k, v)
	return err
}

func (r *rows) Delete(ctx context.Context, k string) error {
	_, err := r.db.ExecContext(ctx, `DELETE FROM rows WHERE k = ?`, k)
	return err
}

const backKeys = 24

// TestBackKilled kills a process that writes through a journal to SQLite, with kill -9, at random points, again and
// again on one directory. What it told us was acknowledged is in the store in the end, no key ever goes back to an
// older value, and the parked key stays parked.
func TestBackKilled(t *testing.T) {
	if dir := os.Getenv("TIERKIT_CACHE_CHILD"); dir != "" {
		backChild(dir)
		return
	}
	dir := t.TempDir()
	acked, tried := map[string]int{}, map[string]int{}
	count, replayed := 0, 0
	for range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestBackKilled$")
		cmd.Env = append(os.Environ(), "TIERKIT_CACHE_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var timer *time.Timer
		enough := 0 // acknowledged writes until the process may die
		kill := func() { cmd.Process.Kill() }
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			if len(f) != 4 || f[3] != ";" {
				continue // cut off
			}
			n, err := strconv.Atoi(f[2])
			require.NoError(t, err)
			switch k := f[1]; f[0] {
			case "open":
				replayed += n
				timer, enough = time.AfterFunc(time.Minute, kill), count+30 // unless it gets to work
			case "start":
				require.GreaterOrEqual(t, n, acked[k], "what was acknowledged is read after the crash")
				require.LessOrEqual(t, n, tried[k])
			case "trying":
				tried[k] = n
			case "acked":
				acked[k] = n
				if count++; count == enough { // any moment of its work will do
					timer.Stop()
					timer = time.AfterFunc(time.Duration(rand.IntN(250))*time.Millisecond, kill)
				}
			case "error":
				cmd.Process.Kill()
				t.Fatal(lines.Text())
			}
		}
		_ = cmd.Wait()
		require.NotNil(t, timer, "the child did not open")
		timer.Stop()
	}
	require.Greater(t, count, 100)
	require.Positive(t, replayed)
	store, err := openRows(filepath.Join(dir, "db"))
	require.NoError(t, err)
	defer store.db.Close()
	b := openBack(t, store, cache.BackOptions{Attempts: 2, RetryBase: time.Millisecond}, filepath.Join(dir, "journal"))
	require.NoError(t, b.Flush(t.Context()))
	require.ErrorContains(t, b.Parked()["poison"], "cannot take")
	for k, n := range acked {
		if k == "poison" {
			continue
		}
		v, err := store.Get(t.Context(), k)
		require.NoError(t, err)
		require.GreaterOrEqual(t, v, n, k)
		require.LessOrEqual(t, v, tried[k], k)
	}
	var backward int
	require.NoError(t, store.db.QueryRow(`SELECT count(*) FROM backward`).Scan(&backward))
	require.Zero(t, backward, "a key went back to an older value")
	require.Error(t, b.Close(t.Context()), "poison")
	t.Logf("%d writes acknowledged, %d keys replayed", count, replayed)
}

func backChild(dir string) {
	ctx := context.Background()
	var mu sync.Mutex
	say := func(what, k string, n int) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(what, k, n, ";")
	}
	fail := func(err error) {
		say("error", strings.ReplaceAll(err.Error(), " ", "_"), 0)
		os.Exit(1)
	}
	store, err := openRows(filepath.Join(dir, "db"))
	if err != nil {
		fail(err)
	}
	c, err := cache.New(cache.Options[string, int]{})
	if err != nil {
		fail(err)
	}
	b, err := cache.OpenBack(c, store, cache.BackOptions{Delay: 5 * time.Millisecond, Attempts: 2,
		RetryBase: time.Millisecond},
		cache.Journal[string, int]{Dir: filepath.Join(dir, "journal"), SegmentBytes: 64 << 10})
	if err != nil {
		fail(err)
	}
	say("open", "-", int(b.Stats().Replayed))
	if _, err := b.Get(ctx, "poison"); err != nil {
		say("trying", "poison", 1)
		if err := b.Set(ctx, "poison", 1); err != nil {
			fail(err)
		}
		say("acked", "poison", 1)
	}
	for i := range backKeys {
		go func() {
			k := fmt.Sprint("k", i)
			n, err := b.Get(ctx, k)
			if err != nil && !errors.Is(err, cache.ErrNotFound) {
				fail(err)
			}
			say("start", k, n)
			for {
				n++
				say("trying", k, n)
				if err := b.Set(ctx, k, n); err != nil {
					fail(err)
				}
				say("acked", k, n)
				if got, err := b.Get(ctx, k); err != nil || got != n {
					fail(fmt.Errorf("read %d, not %d: %w", got, n, err))
				}
			}
		}()
	}
	select {}
}

// TestBackModel holds a write-back cache with a journal against a map, through stores that fail and processes that end:
// every Get sees the newest write, and in the end the store has it.
func TestBackModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		dir, err := os.MkdirTemp("", "journal")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		s := &table{rows: map[string]int{}}
		c, err := cache.New(cache.Options[string, int]{MaxEntries: 5})
		require.NoError(t, err)
		defer c.Close()
		var b *cache.Back[string, int]
		open := func() {
			o := cache.BackOptions{Delay: -1, Attempts: 2, RetryBase: time.Microsecond, RetryMax: time.Microsecond,
				Workers: 2}
			b, err = cache.OpenBack(c, s, o, cache.Journal[string, int]{Dir: dir, SegmentBytes: 64 << 10})
			require.NoError(t, err)
		}
		open()
		defer func() { b.Close(ended) }()
		want := map[string]int{}
		key := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g"})
		check := func(k string) {
			if s.broken() != nil {
				return
			}
			v, err := b.Get(ctx, k)
			if n, ok := want[k]; ok {
				require.NoError(t, err)
				require.Equal(t, n, v, k)
			} else {
				require.ErrorIs(t, err, cache.ErrNotFound, k)
			}
		}
		n := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch k := key.Draw(t, "key"); rapid.IntRange(0, 9).Draw(t, "op") {
			case 0, 1, 2, 3:
				n++
				require.NoError(t, b.Set(ctx, k, n))
				want[k] = n
				check(k)
			case 4:
				require.NoError(t, b.Delete(ctx, k))
				delete(want, k)
			case 5:
				s.breakIt(errors.New("down"))
			case 6:
				s.breakIt(nil)
			case 7:
				b.Retry()
			case 8:
				_ = b.Close(ended)
				c.Clear()
				open()
			case 9:
				require.NoError(t, b.Flush(ctx))
			}
			check(key.Draw(t, "check"))
		}
		s.breakIt(nil)
		require.NoError(t, b.Flush(ctx)) // the last of what fails is parked
		b.Retry()
		require.NoError(t, b.Close(ctx))
		require.Equal(t, want, s.rows)
	})
}
