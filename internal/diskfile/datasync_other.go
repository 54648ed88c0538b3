//go:build !linux

package diskfile

import "os"

func datasync(f *os.File) error { return f.Sync() }

// flock: only Linux is supported as a production platform; elsewhere two processes on one directory are not kept apart.
func flock(*os.File) error { return nil }
