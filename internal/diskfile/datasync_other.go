//go:build !linux

package diskfile

import "os"

// Datasync makes written data durable.
func Datasync(f *os.File) error { return f.Sync() }
