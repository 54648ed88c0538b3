package tcp

import "syscall"

// loopPipe lends the kernel a place for bytes that pass from socket to socket. A loop has one, and a flow one only
// while its reader is slower than its sender.
type loopPipe struct {
	r, w int
	held int // bytes in it
}

const (
	pipeSize       = 1 << 20 // in the kernel; a user with very many gets smaller ones, which work too
	spliceNonblock = 2       // SPLICE_F_NONBLOCK, with SPLICE_F_MOVE
	setPipeSize    = 1031    // F_SETPIPE_SZ
)

func newLoopPipe() *loopPipe {
	var fds [2]int
	if syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK) != nil {
		return nil
	}
	syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[1]), setPipeSize, pipeSize)
	return &loopPipe{r: fds[0], w: fds[1]}
}

// fill takes what a socket has, when the pipe is empty: errAgain when it has nothing.
func (p *loopPipe) fill(socket int) (int, error) {
	n, err := splice(socket, p.w, pipeSize)
	p.held += n
	return n, err
}

// drain gives a socket all that the pipe holds; errAgain when there is no room for all of it.
func (p *loopPipe) drain(socket int) error {
	for p.held > 0 {
		n, err := splice(p.r, socket, p.held)
		if err != nil {
			return err
		}
		if n == 0 {
			return syscall.EPIPE
		}
		p.held -= n
	}
	return nil
}

// splice is told to the scheduler: to move so much takes a while.
func splice(from, to, most int) (int, error) {
	for {
		n, err := syscall.Splice(from, nil, to, nil, most, spliceNonblock)
		if err != syscall.EINTR {
			return max(int(n), 0), err
		}
	}
}

func (p *loopPipe) close() {
	syscall.Close(p.r)
	syscall.Close(p.w)
}
