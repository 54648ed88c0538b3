package diskfile

import (
	"os"
	"syscall"
)

// datasync skips the inode's times, which would cost a journal commit of the file system for each of a log.
func datasync(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}

func flock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
