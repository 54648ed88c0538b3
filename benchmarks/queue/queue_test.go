// Package queue measures the embedded queue beside its physical limit (a bare group-commit writer on the same disk),
// JetStream, bbolt, pebble, SQLite and PostgreSQL: go test -bench . -count 5 ./queue
//
// Every publish waits until its message is durable, except for the contenders whose name says otherwise. The directory
// is that of os.TempDir, which must be on the disk to be measured (TMPDIR), not in memory.
package queue

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/queue"
	"github.com/tierkit/tierkit/queue/jetstream"
	"github.com/tierkit/tierkit/queue/pgqueue"
)

// publisher is one engine; publish may be called by many producers at once.
type publisher func(b *testing.B, dir string) (publish func(body []byte) error, close func())

var contenders = []struct {
	name string
	open publisher
}{
	{"limit", rawLog}, {"tierkit", embedded(queue.Options{})}, {"pebble", pebbleLog}, {"bbolt-batch", bboltBatch},
	{"sqlite", sqliteTable},
	{"postgres-skip-locked", postgres},
	{"jetstream-always", natsStream(true)}, {"jetstream-default-not-durable", natsStream(false)},
}

// BenchmarkPublish is b.N publishes by 1, 8 and 64 producers of 100 B and 1 KiB.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{100, 1024} {
		for _, producers := range []int{1, 8, 64} {
			for _, c := range contenders {
				b.Run(fmt.Sprintf("%dx%dB/%s", producers, size, c.name), func(b *testing.B) {
					publish, end := c.open(b, b.TempDir())
					defer end()
					body := make([]byte, size)
					if err := publish(body); err != nil {
						b.Fatal(err)
					}
					var next atomic.Int64
					took := make([][]time.Duration, producers)
					b.ReportAllocs()
					b.ResetTimer()
					var wg sync.WaitGroup
					for p := range producers {
						wg.Go(func() {
							for next.Add(1) <= int64(b.N) {
								start := time.Now()
								if err := publish(body); err != nil {
									b.Error(err)
									return
								}
								took[p] = append(took[p], time.Since(start))
							}
						})
					}
					wg.Wait()
					b.StopTimer()
					all := slices.Concat(took...)
					slices.Sort(all)
					b.ReportMetric(float64(len(all))/b.Elapsed().Seconds(), "msgs/s")
					b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-us")
					b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
				})
			}
		}
	}
}

// BenchmarkConsume is b.N deliveries, fetched and acknowledged by 8 workers: in batches without waiting for each ack,
// and one by one with.
func BenchmarkConsume(b *testing.B) {
	for _, c := range []struct {
		name  string
		batch int
	}{{"batch-of-100", 100}, {"single-awaited", 1}} {
		b.Run(c.name+"/tierkit", func(b *testing.B) {
			q, err := queue.Open(b.TempDir(), queue.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer q.Close()
			consume(b, q, c.batch)
		})
		b.Run(c.name+"/jetstream-always", func(b *testing.B) {
			nc, end := serve(b, b.TempDir(), true)
			defer end()
			q, err := jetstream.Open(b.Context(), nc, jetstream.Options{SyncAlways: true})
			if err != nil {
				b.Fatal(err)
			}
			defer q.Close()
			consume(b, q, c.batch)
		})
		b.Run(c.name+"/postgres-skip-locked", func(b *testing.B) {
			q, end := openPostgres(b)
			defer end()
			consume(b, q, c.batch)
		})
	}
	b.Run("single-awaited/limit", func(b *testing.B) { // an ack is a record of a few bytes
		ack, end := rawLog(b, b.TempDir())
		defer end()
		var next atomic.Int64
		b.ResetTimer()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for next.Add(1) <= int64(b.N) {
					if err := ack(make([]byte, 12)); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	})
}

func consume(b *testing.B, q *queue.Queue, batch int) {
	ctx := b.Context()
	g, err := q.Group(ctx, "t", "g", queue.GroupOptions{})
	if err != nil {
		b.Fatal(err)
	}
	msgs := make([]queue.Message, 0, 1000)
	for i := range b.N {
		if msgs = append(msgs, queue.Message{Topic: "t", Body: make([]byte, 1024)}); len(msgs) == cap(msgs) ||
			i == b.N-1 {
			if _, err := q.PublishBatch(ctx, msgs); err != nil {
				b.Fatal(err)
			}
			msgs = msgs[:0]
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var done atomic.Int64
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				ds, err := g.Fetch(ctx, batch)
				if err != nil {
					return
				}
				if err := g.Ack(context.Background(), ds...); err != nil {
					b.Error(err)
				}
				if done.Add(int64(len(ds))) == int64(b.N) {
					b.StopTimer()
					cancel()
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

func embedded(o queue.Options) publisher {
	return func(b *testing.B, dir string) (func([]byte) error, func()) {
		q, err := queue.Open(dir, o)
		if err != nil {
			b.Fatal(err)
		}
		ctx := b.Context()
		return func(body []byte) error {
			_, err := q.Publish(ctx, queue.Message{Topic: "t", Body: body})
			return err
		}, func() { q.Close() }
	}
}

// rawLog is the limit: frames with a checksum in a zero-filled file, one write and one fdatasync per group, and nothing
// else.
func rawLog(b *testing.B, dir string) (func([]byte) error, func()) {
	const size = 256 << 20
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros, at); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	type group struct {
		buf  []byte
		n    int
		done chan struct{}
	}
	var mu sync.Mutex
	cond := sync.NewCond(&mu)
	cur, stop := &group{done: make(chan struct{})}, false
	ended := make(chan struct{})
	table := crc32.MakeTable(crc32.Castagnoli)
	go func() {
		defer close(ended)
		var spare []byte
		at, last, took := int64(0), 0, time.Duration(0)
		for {
			if last > 1 { // the producers just released are about to come back
				for start, limit := time.Now(),
					min(took/4, 100*time.Microsecond); time.Since(start) < limit; runtime.Gosched() {
					mu.Lock()
					enough := cur.n >= last
					mu.Unlock()
					if enough {
						break
					}
				}
			}
			mu.Lock()
			for cur.n == 0 && !stop {
				cond.Wait()
			}
			g := cur
			cur = &group{buf: spare[:0], done: make(chan struct{})}
			mu.Unlock()
			if g.n == 0 {
				return
			}
			if at+int64(len(g.buf)) > size {
				at = 0
			}
			start := time.Now()
			if _, err := f.WriteAt(g.buf, at); err != nil {
				b.Error(err)
			}
			if err := unix.Fdatasync(int(f.Fd())); err != nil {
				b.Error(err)
			}
			took, last = time.Since(start), g.n
			at += int64(len(g.buf))
			spare = g.buf
			close(g.done)
		}
	}()
	return func(body []byte) error {
			sum := crc32.Checksum(body, table)
			mu.Lock()
			g := cur
			g.buf = binary.LittleEndian.AppendUint32(g.buf, uint32(len(body)))
			g.buf = append(binary.LittleEndian.AppendUint32(g.buf, sum), body...)
			if g.n++; g.n == 1 {
				cond.Signal()
			}
			mu.Unlock()
			<-g.done
			return nil
		}, func() {
			mu.Lock()
			stop = true
			cond.Signal()
			mu.Unlock()
			<-ended
			f.Close()
		}
}

func pebbleLog(b *testing.B, dir string) (func([]byte) error, func()) {
	db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{}})
	if err != nil {
		b.Fatal(err)
	}
	var seq atomic.Uint64
	return func(body []byte) error {
		return db.Set(binary.BigEndian.AppendUint64(nil, seq.Add(1)), body, pebble.Sync)
	}, func() { db.Close() }
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

func bboltBatch(b *testing.B, dir string) (func([]byte) error, func()) {
	db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	name := []byte("q")
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(name); return err }); err != nil {
		b.Fatal(err)
	}
	return func(body []byte) error {
		return db.Batch(func(tx *bbolt.Tx) error {
			k := tx.Bucket(name)
			n, _ := k.NextSequence()
			return k.Put(binary.BigEndian.AppendUint64(nil, n), body)
		})
	}, func() { db.Close() }
}

// sqliteTable is what queues on SQLite do, such as goqite: a row and a commit per message.
func sqliteTable(b *testing.B, dir string) (func([]byte) error, func()) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "q.db")+
		"?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=busy_timeout(10000)")
	if err != nil {
		b.Fatal(err)
	}
	db.SetMaxOpenConns(1) // writers are one after the other in any case
	if _, err := db.Exec(`create table q (id integer primary key, due integer not null default 0, tries integer not null default 0, body blob not null)`); err != nil {
		b.Fatal(err)
	}
	insert, err := db.Prepare(`insert into q (body) values (?)`)
	if err != nil {
		b.Fatal(err)
	}
	return func(body []byte) error { _, err := insert.Exec(body); return err }, func() { db.Close() }
}

// postgres is queue/pgqueue on a server of its own, which keeps its promises.
func postgres(b *testing.B, _ string) (func([]byte) error, func()) {
	q, end := openPostgres(b)
	ctx := b.Context()
	return func(body []byte) error {
		_, err := q.Publish(ctx, queue.Message{Topic: "t", Body: body})
		return err
	}, end
}

func openPostgres(b *testing.B) (*queue.Queue, func()) {
	server := testserver.Postgres(b, testserver.PostgresOptions{Fsync: true}).Primary()
	c, err := pgxpool.ParseConfig(server.DSN())
	if err != nil {
		b.Fatal(err)
	}
	c.MaxConns = 64
	pool, err := pgxpool.NewWithConfig(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	q, err := pgqueue.Open(b.Context(), pool, pgqueue.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return q, func() {
		q.Close()
		pool.Close()
	}
}

func serve(b *testing.B, dir string, always bool) (*nats.Conn, func()) {
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true,
		NoLog: true, SyncAlways: always})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		b.Fatal("no NATS server")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		b.Fatal(err)
	}
	return nc, func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
}

func natsStream(always bool) publisher {
	return func(b *testing.B, dir string) (func([]byte) error, func()) {
		nc, end := serve(b, dir, always)
		js, err := nc.JetStream()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := js.AddStream(&nats.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
			b.Fatal(err)
		}
		return func(body []byte) error { _, err := js.Publish("s", body); return err }, end
	}
}
