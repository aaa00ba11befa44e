package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// A Store is the set of open descriptors that a successor gets, by name:
//
//	store, others, err := handover.Open()
//	mount := store.Inherited()["mount"]      // what a predecessor kept
//	err = store.Keep("listen", socket)       // from now on a successor gets it
//	store.Drop("listen")
//	err = store.Exec("/usr/bin/imdsfs", …)   // become the successor, in the same process
//
// Three parties can hold the descriptors:
//
//   - systemd's file descriptor store (sd_notify(3): FDSTORE=1, FDNAME, FDPOLL=0) survives a crash and a restart of the
//     service. The unit sets FileDescriptorStoreMax=, and FDSTORE= in the environment, which systemd 254 and later set
//     themselves.
//   - A [Keeper] understands the same messages, on a socket of its own.
//   - With neither, the process itself does: Exec passes them to the program that takes its place.
//
// IsFDName(FDName(name)) holds for each name.
type Store struct {
	keeper    int           // process number, 0 for none
	socket    *net.UnixConn // to the keeper
	systemd   bool
	disabled  bool
	inherited map[string]*os.File
	rejected  []string

	mu   sync.Mutex
	held map[string]int // our own copies; plain descriptors, so that the runtime's poller does not watch them
}

// sendLimit is how long systemd may take to accept a message. The message then waits in a queue, and counts: systemd reads
// the queue before it looks which process has died. The queue may be as short as ten messages
// (net.unix.max_dgram_qlen), and systemd does not read it during a daemon-reload.
const sendLimit = 5 * time.Second

// Disabled returns a store that keeps nothing and notifies nobody. A daemon that runs inside another command has it.
func Disabled() *Store {
	return &Store{inherited: map[string]*os.File{}, held: map[string]int{}, disabled: true}
}

// Durable reports whether what is kept survives when this process is killed.
func (s *Store) Durable() bool { return s.keeper != 0 || s.systemd }

// BySystemd reports whether systemd's file descriptor store holds what is kept.
func (s *Store) BySystemd() bool { return s.systemd }

// String says who holds what is kept, for status and log.
func (s *Store) String() string {
	switch {
	case s.disabled:
		return "none: it ends with imdsfs run"
	case s.keeper != 0:
		return fmt.Sprintf("the keeper, pid %d", s.keeper)
	case s.systemd:
		return "systemd's file descriptor store"
	}
	return "exec in place (imdsfs upgrade); a kill is not survived"
}

// Keep keeps a copy of f under a name. It replaces what was kept under that name before.
func (s *Store) Keep(name string, f *os.File) error {
	if !IsFDName(FDName(name)) {
		return fmt.Errorf("%q is no name for what is kept", name)
	}
	twin, err := duplicate(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(name)
	if err := s.send("FDSTORE=1\nFDNAME="+FDName(name)+"\nFDPOLL=0", twin); err != nil {
		unix.Close(twin)
		return fmt.Errorf("keep %s with %s: %w", name, s, err)
	}
	s.held[name] = twin
	return nil
}

// KeepText keeps a text under a name, in sealed memory, which nobody can change any more.
func (s *Store) KeepText(name string, text []byte) error {
	fd, err := unix.MemfdCreate("imdsfs "+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	const all = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, all); err != nil {
		return fmt.Errorf("seal %s: %w", name, err)
	}
	return s.Keep(name, f)
}

// Drop stops keeping what is kept under a name.
func (s *Store) Drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(name)
}

// DropAll stops keeping everything.
func (s *Store) DropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.held {
		s.dropLocked(name)
	}
}

func (s *Store) dropLocked(name string) {
	fd, ok := s.held[name]
	if !ok {
		return
	}
	delete(s.held, name)
	unix.Close(fd)
	s.Remove(name)
}

// Remove tells systemd or the keeper to hold nothing under a name, whichever process has asked them to.
func (s *Store) Remove(name string) {
	s.send("FDSTOREREMOVE=1\nFDNAME="+FDName(name), noFile) // an error means that nobody is there to hold it either
}

// Notify tells systemd or the keeper our state, sd_notify(3). Without either it does nothing.
func (s *Store) Notify(state string) error {
	if s.disabled {
		return nil
	}
	if s.keeper != 0 {
		return s.write(s.socket, state, noFile)
	}
	_, err := daemon.SdNotify(false, state)
	return err
}

const noFile = -1

func (s *Store) send(state string, fd int) error {
	switch {
	case s.keeper != 0:
		return s.write(s.socket, state, fd)
	case !s.systemd:
		return nil
	}
	name := os.Getenv(notifyVariable)
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	return s.write(conn, state, fd)
}

func (s *Store) write(conn *net.UnixConn, state string, fd int) error {
	if err := conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	var rights []byte
	if fd != noFile {
		rights = unix.UnixRights(fd)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Write(func(socket uintptr) bool {
		inner = unix.Sendmsg(int(socket), []byte(state), rights, nil, unix.MSG_NOSIGNAL)
		return inner != unix.EAGAIN
	})
	return errors.Join(err, inner)
}

func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return noFile, err
	}
	var inner error
	err = raw.Control(func(old uintptr) { fd, inner = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, inner); err != nil {
		return noFile, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return fd, nil
}
