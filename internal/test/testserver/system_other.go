//go:build !unix

package testserver

import (
	"errors"
	"syscall"
)

// Servers are started on Unix systems only: elsewhere the binaries are not found and the tests skip. What follows lets
// the tests build.

type credential struct{ Uid, Gid uint32 }

type signal int

const (
	sigKill signal = iota
	sigInt
	sigCont
	sigStop
)

func kill(int, signal) error { return errors.ErrUnsupported }

func ownSession(*credential) *syscall.SysProcAttr { return nil }
