package handover

import (
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxHeld    = 256             // descriptors that a keeper holds
	closeLimit = 5 * time.Second // for all of them, at the end
)

// A heldFiles is what a keeper holds for the next daemon, in the order in which it came. These are plain descriptors, so that
// the runtime's poller does not watch them.
type heldFiles struct {
	mu    sync.Mutex
	names []string
	fds   []int
}

// put holds one more descriptor, or closes it if there is no room. Nothing is closed under the lock: close may block.
func (s *heldFiles) put(name string, fd int) bool {
	s.mu.Lock()
	full := len(s.fds) >= maxHeld
	if !full {
		s.names, s.fds = append(s.names, name), append(s.fds, fd)
	}
	s.mu.Unlock()
	if full {
		unix.Close(fd)
	}
	return !full
}

func (s *heldFiles) remove(name string) {
	for _, fd := range s.take(func(held string) bool { return held == name }) {
		unix.Close(fd)
	}
}

// take removes what is held under these names, and returns it.
func (s *heldFiles) take(which func(name string) bool) (taken []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.names) - 1; i >= 0; i-- {
		if which(s.names[i]) {
			taken = append(taken, s.fds[i])
			s.names, s.fds = slices.Delete(s.names, i, i+1), slices.Delete(s.fds, i, i+1)
		}
	}
	return taken
}

func (s *heldFiles) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.names, name)
}

// list returns copies of everything, for a child.
func (s *heldFiles) list() (names []string, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, fd := range s.fds {
		twin, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			continue // the child logs what it misses
		}
		names, files = append(names, s.names[i]), append(files, os.NewFile(uintptr(twin), s.names[i]))
	}
	return names, files
}

// clear closes everything, in parallel: one close that blocks does not hold up the others. It gives up after closeLimit.
func (s *heldFiles) clear() {
	var closing sync.WaitGroup
	for _, fd := range s.take(func(string) bool { return true }) {
		closing.Go(func() { unix.Close(fd) })
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		closing.Wait()
	}()
	select {
	case <-closed:
	case <-time.After(closeLimit):
	}
}
