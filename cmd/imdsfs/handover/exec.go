package handover

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/fault"
)

const (
	maxPassed   = 256 // descriptors that Exec passes; as many as a keeper holds
	maxRejected = 8   // words of execVariable that we report
)

// Exec replaces this program with another one, which gets everything that is kept. It returns only if that fails, and then
// nothing has changed. No other goroutine may use what is kept meanwhile.
func (s *Store) Exec(path string, args []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	syscall.ForkLock.Lock() // no other child may get the descriptors
	defer syscall.ForkLock.Unlock()
	words := []string{strconv.Itoa(os.Getpid())}
	pass := func(name string, fd int) error {
		words = append(words, fmt.Sprintf("%s=%d", name, fd))
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
		return err
	}
	for name, fd := range s.held {
		if err := pass(name, fd); err != nil {
			return err
		}
	}
	if s.socket != nil {
		raw, err := s.socket.SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		err = raw.Control(func(fd uintptr) { inner = pass(socketName, int(fd)) })
		if err = errors.Join(err, inner); err != nil {
			return err
		}
	}
	err := syscall.Exec(path, args, append(os.Environ(), execVariable+"="+strings.Join(words, " ")))
	for _, fd := range s.held {
		unix.CloseOnExec(fd)
	}
	return fmt.Errorf("exec %s: %w", path, err)
}

// Become replaces this program with a candidate that was tried, if it has not changed since. Like Exec it returns only if
// that fails.
func (s *Store) Become(next *Candidate) error {
	fault.At("exec")
	if err := next.Unchanged(); err != nil {
		return err
	}
	return s.Exec(next.path, append([]string{next.path}, os.Args[1:]...))
}

// Restart replaces this program with itself, after what is kept has been prepared for a successor that did not come.
func (s *Store) Restart() error {
	return s.Exec("/proc/self/exe", append([]string{os.Args[0]}, os.Args[1:]...))
}

// OwnProgram returns the path by which this program was called. After an upgrade of the package another program is there.
func OwnProgram() (string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("find this program's own file: %w", err)
	}
	return path, nil
}

// lingeringVariable holds the process number of a child that survives an exec and for which nobody else waits.
const lingeringVariable = "IMDSFS_LINGERING"

// LeaveChild tells the successor in this process to wait for a child, 0 for none.
func LeaveChild(pid int) {
	if pid != 0 {
		os.Setenv(lingeringVariable, strconv.Itoa(pid))
	}
}

// ReapLeftChild waits, in the background, for the child that a predecessor in this process left.
func ReapLeftChild() {
	pid, err := strconv.Atoi(os.Getenv(lingeringVariable))
	os.Unsetenv(lingeringVariable)
	if err == nil && pid > 1 {
		go unix.Wait4(pid, nil, 0, nil)
	}
}
