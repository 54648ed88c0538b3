package diskfile

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

func flock(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped))
}

// locked reports whether err says that another process holds the lock.
func locked(err error) bool { return errors.Is(err, windows.ERROR_LOCK_VIOLATION) }

// syncDir does nothing: Windows cannot flush a directory, NTFS journals its changes.
func syncDir(*os.File) error { return nil }
