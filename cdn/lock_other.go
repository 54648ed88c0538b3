//go:build !unix

package cdn

import "os"

// lockDir can't lock here: see to it that a directory has one cache.
func lockDir(path string) (*os.File, error) { return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) }
