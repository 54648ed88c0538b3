// Package diskfile is the part of a file system that append-only logs use: the operating system's, or one of a test
// that fails on purpose.
package diskfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// FS is a directory. Names are without a path.
type FS interface {
	Create(name string) (File, error) // fails if it exists
	Open(name string) (File, error)   // for reading and writing
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	// SyncDir makes creations, renames and removals durable.
	SyncDir() error
}

// File is one of an FS. Its methods may be called at the same time.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Datasync makes written data durable; Sync also the file's size and times.
	Datasync() error
	Sync() error
	Size() (int64, error)
	Close() error
}

// Dir is a directory of the operating system.
type Dir string

type osFile struct{ *os.File }

func (d Dir) open(name string, flag int) (File, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Create implements FS.
func (d Dir) Create(name string) (File, error) { return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL) }

// Open implements FS.
func (d Dir) Open(name string) (File, error) { return d.open(name, os.O_RDWR) }

// Remove implements FS.
func (d Dir) Remove(name string) error { return os.Remove(filepath.Join(string(d), name)) }

// Rename implements FS.
func (d Dir) Rename(from, to string) error {
	return os.Rename(filepath.Join(string(d), from), filepath.Join(string(d), to))
}

// List implements FS.
func (d Dir) List() ([]string, error) {
	es, err := os.ReadDir(string(d))
	names := make([]string, 0, len(es))
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names, err
}

// SyncDir implements FS.
func (d Dir) SyncDir() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(syncDir(f), f.Close())
}

func (f osFile) Datasync() error { return Datasync(f.File) }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Lock takes the directory's file LOCK until it is closed; the kernel drops the lock with the process. When another has
// it, the error is inUse with the directory's name.
func Lock(dir string, inUse error) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		if locked(err) {
			return nil, fmt.Errorf("%w: %s", inUse, dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}
