//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package diskfile

import (
	"errors"
	"os"
	"syscall"
)

func flock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// locked reports whether err says that another process holds the lock.
func locked(err error) bool { return errors.Is(err, syscall.EWOULDBLOCK) }

// syncDir makes creations, renames and removals in dir durable.
func syncDir(dir *os.File) error { return dir.Sync() }
