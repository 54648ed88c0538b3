//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package diskfile

import (
	"errors"
	"os"
)

// flock refuses: without a lock two processes could write one log.
func flock(*os.File) error { return errors.ErrUnsupported }

func locked(error) bool { return false }

func syncDir(dir *os.File) error { return dir.Sync() }
