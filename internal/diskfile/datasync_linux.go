package diskfile

import (
	"os"
	"syscall"
)

// Datasync makes written data durable. It skips the inode's times, which would cost a journal commit of the file system
// for each write of a log.
func Datasync(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}
