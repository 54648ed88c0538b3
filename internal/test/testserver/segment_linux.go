package testserver

import "golang.org/x/sys/unix"

// removeSegment frees a System V shared memory segment.
func removeSegment(id int) { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) }
