package queue

import (
	"fmt"
	"os"
	"time"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// Report is what [Check] found.
type Report struct {
	Segments int
	Bytes    int64
	// Messages are those that some group has not settled, or that wait for a first group; Dead of them are dead
	// letters.
	Messages int
	Dead     int
	// Groups as they would be after an Open: nothing is in flight.
	Groups []GroupStats
	// Damage lists every range of bytes that fails its checksum. Torn is how many bytes of the last batch do, because a
	// crash cut its write off: it was never acknowledged, and the next Open drops it.
	Damage []Damage
	Torn   int64
}

// Damage is one damaged range of a file.
type Damage struct {
	File           string
	Offset, Length int64
	What           string
}

// Check reads the whole log of a directory that nobody has open, verifies every checksum and that messages and
// settlements fit together, and changes nothing. Errors: ErrLocked; what the file system says. Damage is not an error,
// but in the report.
func Check(dir string) (Report, error) {
	var rep Report
	if _, err := os.Stat(dir); err != nil {
		return rep, fmt.Errorf("queue: check: %w", err)
	}
	lock, err := diskfile.Lock(dir, ErrLocked)
	if err != nil {
		return rep, err
	}
	defer lock.Close()
	e := &engine{dir: dir, start: time.Now(), files: readOnly{diskfile.Dir(dir)}, topics: map[string]*topicState{},
		segments: map[uint32]*segment{}, moved: map[uint64]ref{}}
	e.topicMap.Store(&map[string]*topicState{})
	e.o.Hooks = &Hooks{Corrupt: func(file string, offset, length int64, err error) {
		rep.Damage = append(rep.Damage, Damage{file, offset, length, err.Error()})
	}}
	names, err := e.files.List()
	if err != nil {
		return rep, fmt.Errorf("queue: check: %w", err)
	}
	r := &recovery{e: e, now: time.Now().UnixNano(), groups: map[uint32]*recovered{}, copies: map[uint64]copyOf{},
		next: 1, readOnly: true}
	defer func() {
		for _, s := range r.segments {
			s.file.Close()
		}
	}()
	if err := r.open(names); err != nil {
		return rep, fmt.Errorf("queue: check: %w", err)
	}
	for _, s := range r.segments {
		e.segments[s.id] = s
		rep.Bytes += s.size
	}
	if err := r.messages(); err != nil {
		return rep, fmt.Errorf("queue: check: %w", err)
	}
	rep.Segments, rep.Torn = len(r.segments), r.torn
	rep.Messages = int(e.depth.Load())
	for _, g := range e.groups {
		if g != nil {
			rep.Dead += len(g.dead)
			l := e.lag(g)
			rep.Groups = append(rep.Groups, GroupStats{Topic: g.topic.name, Group: g.name, Ready: int64(l.Ready),
				Delayed: int64(l.Delayed), Dead: int64(l.Dead), OldestAge: l.OldestAge.Seconds()})
		}
	}
	return rep, nil
}

// readOnly refuses every change.
type readOnly struct{ diskfile.FS }

type readOnlyFile struct{ diskfile.File }

func (r readOnly) Create(string) (diskfile.File, error) { return nil, os.ErrPermission }
func (r readOnly) Rename(string, string) error          { return os.ErrPermission }
func (r readOnly) Remove(string) error                  { return nil } // leftovers that Open would remove
func (r readOnly) SyncDir() error                       { return nil }
func (r readOnly) Open(name string) (diskfile.File, error) {
	f, err := r.FS.Open(name)
	return readOnlyFile{f}, err
}
func (readOnlyFile) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (readOnlyFile) Datasync() error                        { return nil }
func (readOnlyFile) Sync() error                            { return nil }
