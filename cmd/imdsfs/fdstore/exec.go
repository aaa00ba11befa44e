package fdstore

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// execVariable is what Exec passes: "PID NAME=FD NAME=FD …".
	execVariable = "IMDSFS_KEPT"

	maxKept     = 256 // files that Exec passes; as many as a keeper holds
	maxRejected = 8   // of them that are told of
)

// Exec has another program take the place of this one, with all that is kept. It returns only if that
// fails; nothing has changed then. No other goroutine may be using what is kept.
func (s *Store) Exec(path string, args []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	syscall.ForkLock.Lock() // nobody else may get the files
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

// openExec takes what Exec passed. What is no open file of ours is left out.
func (s *Store) openExec() {
	kept, rejected := parseExec(os.Getenv(execVariable), os.Getpid())
	os.Unsetenv(execVariable)
	s.rejected = append(s.rejected, rejected...)
	for _, k := range kept {
		if !wasPassed(k.fd) {
			s.rejected = append(s.rejected, fmt.Sprintf("%s: descriptor %d of %s was not passed on", execVariable, k.fd, k.name))
			continue
		}
		if k.name == socketName {
			os.Setenv(SocketVariable, strconv.Itoa(k.fd)) // openKeeper takes it
			continue
		}
		unix.CloseOnExec(k.fd)
		s.take(k.name, plainFile(k.fd, k.name))
	}
}

// A passed is one file that Exec passed.
type passed struct {
	name string
	fd   int // from 3
}

// parseExec reads execVariable. It holds nothing for a process with another number. rejected is what makes no sense in
// it.
func parseExec(text string, pid int) (kept []passed, rejected []string) {
	words := strings.Fields(text)
	if len(words) == 0 || words[0] != strconv.Itoa(pid) {
		return nil, nil
	}
	for _, word := range words[1:] {
		name, number, _ := strings.Cut(word, "=")
		fd, err := strconv.Atoi(number)
		switch {
		case len(kept) == maxKept:
			return kept, append(rejected, fmt.Sprintf("%s: more than %d files", execVariable, maxKept))
		case err != nil, fd < 3, name != socketName && !IsKeptName(prefix+name),
			slices.ContainsFunc(kept, func(k passed) bool { return k.fd == fd || k.name == name }):
			if len(rejected) < maxRejected {
				rejected = append(rejected, fmt.Sprintf("%s: %q is no file", execVariable, word[:min(len(word), maxName)]))
			}
		default:
			kept = append(kept, passed{name, fd})
		}
	}
	return kept, rejected
}

// Rejected says, a sentence each, what a predecessor passed on and is not taken.
func (s *Store) Rejected() []string { return s.rejected }
