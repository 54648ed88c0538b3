package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// files is the part of a file system that the journal uses: the operating system's, or one that fails on purpose in tests.
type files interface {
	Create(name string) (file, error) // fails if it exists
	Open(name string) (file, error)
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	// SyncDir makes creations, renames and removals durable.
	SyncDir() error
}

type file interface {
	io.ReaderAt
	io.WriterAt
	// Datasync makes written data durable; Sync also the file's size.
	Datasync() error
	Sync() error
	Size() (int64, error)
	Close() error
}

type osFiles struct{ dir string }

type osFile struct{ *os.File }

func (o osFiles) open(name string, flag int) (file, error) {
	f, err := os.OpenFile(filepath.Join(o.dir, name), flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (o osFiles) Create(name string) (file, error) {
	return o.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}
func (o osFiles) Open(name string) (file, error) { return o.open(name, os.O_RDWR) }
func (o osFiles) Remove(name string) error       { return os.Remove(filepath.Join(o.dir, name)) }
func (o osFiles) Rename(from, to string) error {
	return os.Rename(filepath.Join(o.dir, from), filepath.Join(o.dir, to))
}

func (o osFiles) List() ([]string, error) {
	es, err := os.ReadDir(o.dir)
	names := make([]string, 0, len(es))
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names, err
}

func (o osFiles) SyncDir() error {
	d, err := os.Open(o.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f osFile) Datasync() error { return datasync(f.File) }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// lockDir takes the directory's lock file; the kernel drops the lock with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := flock(f); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
		}
		return nil, fmt.Errorf("journal: lock %s: %w", dir, err)
	}
	return f, nil
}
