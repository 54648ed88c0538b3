//go:build unix

package testserver

import "syscall"

// credential is the user that a server runs as.
type credential = syscall.Credential

type signal = syscall.Signal

const (
	sigKill = syscall.SIGKILL
	sigInt  = syscall.SIGINT
	sigCont = syscall.SIGCONT
	sigStop = syscall.SIGSTOP
)

func kill(pid int, s signal) error { return syscall.Kill(pid, s) }

// ownSession runs a process as c, out of reach of the terminal's interrupt.
func ownSession(c *credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: c}
}
