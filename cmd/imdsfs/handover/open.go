package handover

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Open opens the store: it finds out who holds descriptors for us, and takes what a predecessor kept. Call it once, early,
// before the environment is passed on. others are descriptors that are not ours, such as a socket unit's, by the name that
// the unit gave them.
func Open() (s *Store, others map[string][]*os.File, err error) {
	s = &Store{inherited: map[string]*os.File{}, held: map[string]int{}}
	s.openExec()
	if err := s.openKeeper(); err != nil {
		return nil, nil, err
	}
	if s.keeper == 0 {
		n, err := strconv.Atoi(os.Getenv(storeVariable))
		s.systemd = os.Getenv(notifyVariable) != "" && err == nil && n > 0
	}
	others = s.openListen()
	return s, others, nil
}

// plainFile makes a file that the runtime's poller does not watch.
func plainFile(fd int, name string) *os.File {
	unix.SetNonblock(fd, false)
	return os.NewFile(uintptr(fd), name)
}

func (s *Store) openKeeper() error {
	pid, err := strconv.Atoi(os.Getenv(keeperVariable))
	if err != nil || pid != os.Getppid() {
		return nil
	}
	fd, err := strconv.Atoi(os.Getenv(socketVariable))
	if err != nil || !wasPassed(fd) {
		return fmt.Errorf("%s: %q is not a descriptor that was passed: start imdsfs serve without it", socketVariable, os.Getenv(socketVariable))
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), socketName)
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("the keeper's socket: %w", err)
	}
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("the keeper's socket is not a Unix socket")
	}
	s.keeper, s.socket = pid, socket
	if os.Getenv("LISTEN_FDS") != "" { // the keeper could not know our process number beforehand
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	return nil
}

// wasPassed reports whether our starter passed a descriptor to us. Those that this program or Go's runtime has opened since
// are close-on-exec.
func wasPassed(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return fd > 2 && err == nil && flags&unix.FD_CLOEXEC == 0
}

// maxListen is how many descriptors we take at most. A keeper holds fewer, and systemd by default none.
const maxListen = 1024

// openListen takes what systemd or a keeper passes, sd_listen_fds(3), and returns what is not ours.
func (s *Store) openListen() map[string][]*os.File {
	others := map[string][]*os.File{}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err == nil && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
		for i := range min(n, maxListen) {
			fd, name := 3+i, "unknown"
			if !wasPassed(fd) {
				break
			}
			unix.CloseOnExec(fd)
			if i < len(names) && names[i] != "" {
				name = names[i]
			}
			others[name] = append(others[name], plainFile(fd, name))
		}
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name)
	}
	for name, files := range others {
		ours, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		delete(others, name)
		for _, f := range files {
			if IsFDName(name) {
				s.take(ours, f)
			} else {
				f.Close()
			}
		}
	}
	return others
}

// take notes a descriptor that a predecessor kept. Several with one name are copies of each other.
func (s *Store) take(name string, f *os.File) {
	if s.inherited[name] != nil {
		f.Close()
		return
	}
	s.inherited[name] = f
	if twin, err := duplicate(f); err == nil {
		s.held[name] = twin
	}
}

// Inherited returns the descriptors that a predecessor kept, by name, as far as nobody has taken them. They stay kept.
func (s *Store) Inherited() map[string]*os.File { return s.inherited }

// Take returns what a predecessor kept under a name, nil if there is nothing. The file is the caller's. It stays kept.
func (s *Store) Take(name string) *os.File {
	f := s.inherited[name]
	delete(s.inherited, name)
	return f
}

// TakeAll is Take for all names with a prefix.
func (s *Store) TakeAll(prefix string) map[string]*os.File {
	files := map[string]*os.File{}
	for name := range s.inherited {
		if strings.HasPrefix(name, prefix) {
			files[name] = s.Take(name)
		}
	}
	return files
}

// Discard closes what a predecessor kept under a name, and stops keeping it.
func (s *Store) Discard(name string) {
	if f := s.Take(name); f != nil {
		f.Close()
	}
	s.Drop(name)
}

// InheritedText returns a text that a predecessor kept with [Store.KeepText], at most 1 MiB of it; nil if there is none.
func (s *Store) InheritedText(name string) []byte {
	f := s.Take(name)
	if f == nil {
		return nil
	}
	defer f.Close()
	// A read of anything but sealed memory may hang, or return something else the next time.
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
		return nil
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		return nil
	}
	return text
}

// Rejected returns a sentence on each descriptor that a predecessor passed on and that we did not take.
func (s *Store) Rejected() []string { return s.rejected }

// openExec takes what Exec passed. It leaves out what is no open descriptor of ours.
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
			os.Setenv(socketVariable, strconv.Itoa(k.fd)) // openKeeper takes it
			continue
		}
		unix.CloseOnExec(k.fd)
		s.take(k.name, plainFile(k.fd, k.name))
	}
}

// A passed is one descriptor that Exec passed.
type passed struct {
	name string
	fd   int // from 3
}

// parseExec parses execVariable, which counts only for the process with the number in it. rejected says what makes no
// sense.
func parseExec(text string, pid int) (kept []passed, rejected []string) {
	words := strings.Fields(text)
	if len(words) == 0 || words[0] != strconv.Itoa(pid) {
		return nil, nil
	}
	for _, word := range words[1:] {
		name, number, _ := strings.Cut(word, "=")
		fd, err := strconv.Atoi(number)
		switch {
		case len(kept) == maxPassed:
			return kept, append(rejected, fmt.Sprintf("%s: more than %d files", execVariable, maxPassed))
		case err != nil, fd < 3, name != socketName && !IsFDName(FDName(name)),
			slices.ContainsFunc(kept, func(k passed) bool { return k.fd == fd || k.name == name }):
			if len(rejected) < maxRejected {
				rejected = append(rejected, fmt.Sprintf("%s: %q is no file", execVariable, word[:min(len(word), maxFDName)]))
			}
		default:
			kept = append(kept, passed{name, fd})
		}
	}
	return kept, rejected
}
