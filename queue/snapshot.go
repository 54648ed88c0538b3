package queue

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/tierkit/tierkit/internal/diskfile"
)

// manifest is the first file of a snapshot: without all that it lists the rest is worth nothing.
type manifest struct {
	Version int             `json:"version"`
	Taken   time.Time       `json:"taken"`
	Files   []manifestEntry `json:"files"`
}

type manifestEntry struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // in the snapshot
	Size  int64  `json:"size"`  // of the file; the rest is zeros
}

const manifestName = "queue.json"

// Snapshot writes the queue as it is at one moment, while it goes on, as a tar archive: everything that was
// acknowledged before the call is in it, and what comes after the call's first write is not. What is in flight is
// waiting again after a Restore. Nothing is deleted from the log until it returns. Engines on a server answer
// ErrUnsupported: those have backups of their own.
func (q *Queue) Snapshot(ctx context.Context, w io.Writer) error {
	s, ok := q.driver.(interface {
		snapshot(context.Context, io.Writer) error
	})
	if !ok {
		return fmt.Errorf("queue: snapshot: %w", ErrUnsupported)
	}
	return s.snapshot(ctx, w)
}

// part is a segment as far as a snapshot has it.
type part struct {
	seg *segment
	end int64
}

func (e *engine) snapshot(ctx context.Context, w io.Writer) (err error) {
	var parts []part
	e.state.Lock()
	done, err := e.note(kindNothing, true, func(b []byte) []byte {
		// after a commit and before the next: the log has no loose end then
		e.cur.after = append(e.cur.after, func() { parts = e.point() })
		return b
	})
	e.state.Unlock()
	if err != nil {
		return err
	}
	err = done.wait(context.WithoutCancel(ctx)) // parts are pinned by then
	defer e.unpin(parts)
	if err != nil {
		return err
	}
	m := manifest{Version: 1, Taken: time.Now().UTC()}
	for _, p := range parts {
		m.Files = append(m.Files, manifestEntry{p.seg.name(), p.end, p.seg.size})
	}
	head, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(head)),
		ModTime: m.Taken}); err != nil {
		return fmt.Errorf("queue: snapshot: %w", err)
	}
	if _, err := t.Write(head); err != nil {
		return fmt.Errorf("queue: snapshot: %w", err)
	}
	for _, p := range parts {
		if err := t.WriteHeader(&tar.Header{Name: p.seg.name(), Mode: 0o600, Size: p.end,
			ModTime: m.Taken}); err != nil {
			return fmt.Errorf("queue: snapshot: %w", err)
		}
		if _, err := io.Copy(t, &contextReader{ctx, io.NewSectionReader(p.seg.file, 0, p.end)}); err != nil {
			return fmt.Errorf("queue: snapshot of %s: %w", p.seg.name(), err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("queue: snapshot: %w", err)
	}
	return nil
}

// point pins every segment of the log and says how far each goes. It is called by the goroutine that commits.
func (e *engine) point() (parts []part) {
	e.state.Lock()
	defer e.state.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil {
		return nil
	}
	for _, s := range append(e.sealed[:len(e.sealed):len(e.sealed)], e.active) {
		if e.segments[s.id] != s {
			continue // the cleaner is about to remove it: all of it is settled
		}
		s.pins++
		parts = append(parts, part{s, s.end})
	}
	return parts
}

func (e *engine) unpin(parts []part) {
	e.state.Lock()
	for _, p := range parts {
		p.seg.pins--
	}
	e.state.Unlock()
	e.kickCleaner()
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// maxManifest bounds what is read of a snapshot before anything is known of it.
const maxManifest = 16 << 20

// Restore makes a queue's directory of a snapshot. The directory must be missing or empty, and is so again after an
// error. All checksums are verified: ErrCorrupt when a byte is wrong, io.ErrUnexpectedEOF when the snapshot is not
// whole.
func Restore(r io.Reader, dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("queue: restore %s: %w", dir, err)
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if have, err := os.ReadDir(dir); err != nil || len(have) > 0 {
		return errors.Join(err, errNotEmpty)
	}
	defer func() {
		if err == nil {
			return
		}
		if names, lerr := os.ReadDir(dir); lerr == nil {
			for _, n := range names {
				_ = os.Remove(filepath.Join(dir, n.Name()))
			}
		}
	}()
	t := tar.NewReader(r)
	h, err := t.Next()
	if err != nil {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	if h.Name != manifestName || h.Size > maxManifest {
		return errors.New("this is not a snapshot of a queue")
	}
	head, err := io.ReadAll(t)
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(head, &m); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	if m.Version != 1 {
		return fmt.Errorf("%s: version %d is unknown", manifestName, m.Version)
	}
	for _, want := range m.Files {
		if err := restoreFile(t, dir, want); err != nil {
			return fmt.Errorf("%s: %w", want.Name, err)
		}
	}
	if err := diskfile.Dir(dir).SyncDir(); err != nil {
		return err
	}
	rep, err := Check(dir)
	if err == nil && len(rep.Damage) > 0 {
		d := rep.Damage[0]
		err = fmt.Errorf("%w: %s at %d: %s", ErrCorrupt, d.File, d.Offset, d.What)
	} else if err == nil && rep.Torn > 0 {
		err = fmt.Errorf("%w: the last %d bytes", ErrCorrupt, rep.Torn)
	}
	return err
}

var errNotEmpty = errors.New("the directory is not empty")

func restoreFile(t *tar.Reader, dir string, want manifestEntry) error {
	if _, _, ok := parseSegmentName(want.Name); !ok || want.Bytes < 0 || want.Size < want.Bytes || want.Size > 1<<30 {
		return errors.New("this is not a segment of a queue")
	}
	h, err := t.Next()
	if err != nil {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	if h.Name != want.Name || h.Size != want.Bytes {
		return fmt.Errorf("found %s with %d bytes instead", h.Name, h.Size)
	}
	f, err := os.OpenFile(filepath.Join(dir, want.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, t); err != nil {
		return err
	}
	if err := f.Truncate(want.Size); err != nil {
		return err
	}
	return f.Sync()
}
