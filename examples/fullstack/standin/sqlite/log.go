package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// logFile is a node's log: a header with the position of the snapshot it continues, then records with consecutive
// sequence numbers. Appends come from one goroutine at a time; reads are concurrent.
type logFile struct {
	f     *os.File
	fsync bool

	mu     sync.RWMutex // guards what follows
	base   position
	epochs []uint64 // of record base.seq+1+i
	ends   []int64  // file offset behind it
	size   int64
}

// position is a point of the history.
type position struct{ epoch, seq uint64 }

func (p position) behind(q position) bool {
	return p.epoch < q.epoch || p.epoch == q.epoch && p.seq < q.seq
}

const logHeader = 24

var logMagic = [8]byte{'t', 'k', 'l', 'o', 'g', 0, 0, 1}

// openLog opens or creates the log in dir; a torn tail is cut off.
func openLog(dir string, fsync bool) (*logFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &logFile{f: f, fsync: fsync}
	if err := l.scan(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return l, nil
}

func (l *logFile) scan() error {
	b, err := io.ReadAll(l.f)
	if err != nil {
		return err
	}
	if len(b) < logHeader {
		return l.reset(position{})
	}
	if [8]byte(b[:8]) != logMagic {
		return errors.New("sqlite: not a log file")
	}
	l.base = position{binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])}
	l.size = logHeader
	for seq := l.base.seq + 1; l.size < int64(len(b)); seq++ {
		r, n, err := decodeRecord(b[l.size:])
		if err != nil || r.seq != seq {
			break // a record that was being written when the process died: it was never acknowledged
		}
		l.size += int64(n)
		l.epochs, l.ends = append(l.epochs, r.epoch), append(l.ends, l.size)
	}
	return l.f.Truncate(l.size)
}

// reset begins an empty log behind a snapshot taken at base.
func (l *logFile) reset(base position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := append(make([]byte, 0, logHeader), logMagic[:]...)
	h = binary.LittleEndian.AppendUint64(h, base.epoch)
	h = binary.LittleEndian.AppendUint64(h, base.seq)
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	if _, err := l.f.WriteAt(h, 0); err != nil {
		return err
	}
	l.base, l.epochs, l.ends, l.size = base, nil, nil, logHeader
	return l.sync()
}

func (l *logFile) sync() error {
	if !l.fsync {
		return nil
	}
	return diskfile.Datasync(l.f)
}

// last is the position of the last record.
func (l *logFile) last() position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.lastLocked()
}

func (l *logFile) lastLocked() position {
	if n := len(l.epochs); n > 0 {
		return position{l.epochs[n-1], l.base.seq + uint64(n)}
	}
	return l.base
}

// has reports whether p is in this log's history.
func (l *logFile) has(p position) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if p.seq == l.base.seq {
		return p.epoch == l.base.epoch
	}
	return p.seq > l.base.seq && p.seq <= l.lastLocked().seq && l.epochs[p.seq-l.base.seq-1] == p.epoch
}

// append writes encoded records that follow the last one, durably if asked.
func (l *logFile) append(recs []record, sync bool) error {
	var buf []byte
	l.mu.RLock()
	at, last := l.size, l.lastLocked()
	l.mu.RUnlock()
	ends := make([]int64, 0, len(recs))
	for i := range recs {
		if recs[i].seq != last.seq+uint64(i)+1 {
			return fmt.Errorf("sqlite: record %d does not follow %d", recs[i].seq, last.seq)
		}
		var err error
		if buf, err = appendRecord(buf, &recs[i]); err != nil {
			return err
		}
		ends = append(ends, at+int64(len(buf)))
	}
	if _, err := l.f.WriteAt(buf, at); err != nil {
		return err
	}
	if sync {
		if err := l.sync(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range recs {
		l.epochs, l.ends = append(l.epochs, recs[i].epoch), append(l.ends, ends[i])
	}
	l.size = at + int64(len(buf))
	return nil
}

// read returns up to max records from sequence number from on.
func (l *logFile) read(from uint64, max int) ([]record, error) {
	l.mu.RLock()
	first := int64(from) - int64(l.base.seq) - 1
	n := min(int64(len(l.ends))-first, int64(max))
	if first < 0 {
		l.mu.RUnlock()
		return nil, fmt.Errorf("sqlite: record %d is older than the log", from)
	}
	if n <= 0 {
		l.mu.RUnlock()
		return nil, nil
	}
	start := int64(logHeader)
	if first > 0 {
		start = l.ends[first-1]
	}
	end := l.ends[first+n-1]
	l.mu.RUnlock()
	b := make([]byte, end-start)
	if _, err := l.f.ReadAt(b, start); err != nil {
		return nil, err
	}
	recs := make([]record, 0, n)
	for len(b) > 0 {
		r, size, err := decodeRecord(b)
		if err != nil {
			return nil, err
		}
		recs = append(recs, r)
		b = b[size:]
	}
	return recs, nil
}

func (l *logFile) close() error { return l.f.Close() }
