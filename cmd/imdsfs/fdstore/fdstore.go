// Package fdstore keeps open files beyond the life of a process, for its successor.
//
//	store, others, err := fdstore.Open()
//	mount := store.Inherited()            // what a predecessor kept, by name
//	err = store.Keep("listen", socket)    // from now on a successor gets it
//	store.Drop("listen")
//	err = store.Exec("/usr/bin/imdsfs")   // become the successor, same process
//
// There are three ways, and they can be combined:
//
//   - systemd's file descriptor store (sd_notify(3): FDSTORE=1, FDNAME, FDPOLL=0) outlives a crash and
//     a restart of the service. The unit says FileDescriptorStoreMax=, and FDSTORE= in the environment,
//     which systemd 254 and later set themselves.
//   - a keeper of ours (package keeper) understands the same messages, on a socket of its own.
//   - Exec hands everything to the program that takes the place of this one.
//
// What others hand over, the sockets of a socket unit say, Open returns as it is.
package fdstore

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

const (
	// prefix tells what we keep from what others hand over.
	prefix = "kept-"
	// sendLimit is how long systemd may take to take a message: it waits in a queue, and counts as
	// soon as it is there, for systemd looks at the queue before it looks who has died. The queue may be
	// as short as ten messages (net.unix.max_dgram_qlen), and nobody looks at it during a daemon-reload.
	sendLimit = 5 * time.Second

	// KeeperVariable, set by a keeper, is its process number.
	KeeperVariable = "IMDSFS_KEEPER"
	// SocketVariable, set by a keeper, is the descriptor of the socket to it, SOCK_DGRAM.
	SocketVariable = "IMDSFS_KEEPER_SOCKET"
	// storeVariable is how many files systemd keeps at most.
	storeVariable = "FDSTORE"
	notifySocket  = "NOTIFY_SOCKET"
	socketName    = "keeper" // of the keeper's socket among what Exec passes

	maxName = 255 // bytes, with prefix
)

// KeptName is how others call what is kept under a name.
func KeptName(name string) string { return prefix + name }

// IsKeptName reports whether others may call something that is kept so: at most 255 bytes (systemd's limit) of printable
// ASCII, without blanks, colons and equals signs.
func IsKeptName(name string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && rest != "" && rest != socketName && len(name) <= maxName &&
		!strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == '=' })
}

// A Store keeps files by name. Names are such that IsKeptName(KeptName(name)).
type Store struct {
	keeper    int           // process number, 0 for none
	socket    *net.UnixConn // to the keeper
	systemd   bool
	inherited map[string]*os.File
	rejected  []string
	nobody    bool // see Nobody

	mu   sync.Mutex
	held map[string]int // descriptors of our own, which the runtime's poller knows nothing of
}

// Open finds out what there is. It must be called once, early, before the environment is passed on.
// others are files that were handed over and are not ours, by the name that the unit gave them.
func Open() (s *Store, others map[string][]*os.File, err error) {
	s = &Store{inherited: map[string]*os.File{}, held: map[string]int{}}
	s.openExec()
	if err := s.openKeeper(); err != nil {
		return nil, nil, err
	}
	if s.keeper == 0 {
		n, err := strconv.Atoi(os.Getenv(storeVariable))
		s.systemd = os.Getenv(notifySocket) != "" && err == nil && n > 0
	}
	others = s.openListen()
	return s, others, nil
}

// Nobody is a store that keeps nothing, and tells nobody of anything: a daemon that is a part of another command has it.
func Nobody() *Store {
	return &Store{inherited: map[string]*os.File{}, held: map[string]int{}, nobody: true}
}

// plainFile is for a descriptor that the runtime's poller stays away from; who wants it does so later.
func plainFile(fd int, name string) *os.File {
	unix.SetNonblock(fd, false)
	return os.NewFile(uintptr(fd), name)
}

func (s *Store) openKeeper() error {
	pid, err := strconv.Atoi(os.Getenv(KeeperVariable))
	if err != nil || pid != os.Getppid() {
		return nil
	}
	fd, err := strconv.Atoi(os.Getenv(SocketVariable))
	if err != nil || !wasPassed(fd) {
		return fmt.Errorf("%s: %q is no descriptor that was passed: start imdsfs serve without it", SocketVariable, os.Getenv(SocketVariable))
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
		return errors.New("the keeper's socket is none")
	}
	s.keeper, s.socket = pid, socket
	if os.Getenv("LISTEN_FDS") != "" { // it could not know our number beforehand
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	return nil
}

// wasPassed reports whether a descriptor is one that whoever started this program has passed. Those that the program,
// or Go's runtime, has opened since then are not passed on by it.
func wasPassed(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return fd > 2 && err == nil && flags&unix.FD_CLOEXEC == 0
}

// maxListen is how many descriptors are taken at most: a keeper holds no more, and systemd by default none.
const maxListen = 1024

// openListen takes what systemd or a keeper passes, sd_listen_fds(3).
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
			if IsKeptName(name) {
				s.take(ours, f)
			} else {
				f.Close()
			}
		}
	}
	return others
}

// take notes a file that a predecessor kept. Of several under one name they are the same.
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

// Inherited are the files that a predecessor kept, by name, and that are still kept. They are the
// caller's.
func (s *Store) Inherited() map[string]*os.File { return s.inherited }

// Durable reports whether what is kept outlives a kill of this process.
func (s *Store) Durable() bool { return s.keeper != 0 || s.systemd }

// BySystemd reports whether systemd's file descriptor store keeps.
func (s *Store) BySystemd() bool { return s.systemd }

// String says who keeps.
func (s *Store) String() string {
	switch {
	case s.nobody:
		return "none: it ends with imdsfs run"
	case s.keeper != 0:
		return fmt.Sprintf("the keeper, pid %d", s.keeper)
	case s.systemd:
		return "systemd's file descriptor store"
	}
	return "exec in place (imdsfs upgrade); a kill is not survived"
}

// Keep has a file kept under a name, in the place of another one that has been before.
func (s *Store) Keep(name string, f *os.File) error {
	if !IsKeptName(prefix + name) {
		return fmt.Errorf("%q is no name for what is kept", name)
	}
	twin, err := duplicate(f)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(name)
	if err := s.send("FDSTORE=1\nFDNAME="+prefix+name+"\nFDPOLL=0", twin); err != nil {
		unix.Close(twin)
		return fmt.Errorf("keep %s with %s: %w", name, s, err)
	}
	s.held[name] = twin
	return nil
}

// KeepText has a text kept under a name, in memory that nobody can change any more.
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

// InheritedText is a text that a predecessor kept, of at most 1 MiB, nil if there is none that KeepText kept.
func (s *Store) InheritedText(name string) []byte {
	f := s.inherited[name]
	if f == nil {
		return nil
	}
	delete(s.inherited, name)
	defer f.Close()
	// Of anything else a read may wait for ever, or give something else the next time.
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
		return nil
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		return nil
	}
	return text
}

// Drop lets go of what is kept under a name.
func (s *Store) Drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(name)
}

// DropAll lets go of everything that is kept.
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

// Remove has nobody keep anything under a name, whichever process asked for that.
func (s *Store) Remove(name string) {
	s.send("FDSTOREREMOVE=1\nFDNAME="+prefix+name, noFile) // if it fails nobody is there to keep it either
}

// Notify tells systemd or the keeper of our state, sd_notify(3); without either it does nothing.
func (s *Store) Notify(state string) error {
	if s.nobody {
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
	name := os.Getenv(notifySocket)
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
