package queue

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync skips the inode's times, which would cost a journal commit per batch.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
