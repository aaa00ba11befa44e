// Package rundir finds a running daemon by its run-time directory, and trusts what it finds there only after a look at who
// put it there.
//
//	--runtime-dir ─→ Candidates ─→ open: who owns it, who could change it ─┬→ Listening, Answering: where HTTP answers
//	                                                                       └→ Dial: a connection to the admin socket
//
// A directory such as /tmp is open to everybody. So another user could leave an address there and answer in the daemon's
// place. Nothing is sent to such a user.
package rundir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

const hintForeign = "if the daemon of that user is meant, run this as that user; else name another directory with --runtime-dir"

// Candidates returns the run-time directories in which to look for a daemon: the one that a flag names; without a flag, our
// own and that of the machine's service.
func Candidates(flag string) []string {
	own := daemon.DefaultRuntimeDir()
	switch {
	case flag != "":
		return []string{flag}
	case own == daemon.RootRuntimeDir:
		return []string{own}
	}
	return []string{own, daemon.RootRuntimeDir}
}

// Listening returns the addresses on which the daemon of a run-time directory listens; none if there is no such daemon. The
// daemon leaves them there in a file, one on a line. The error says why the directory is not trusted.
func Listening(path string) ([]netip.AddrPort, error) {
	d, err := open(path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer d.file.Close()
	f := d.openFile(filepath.Base(daemon.ListenFile(path)))
	if f == nil {
		return nil, nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, daemon.MaxListenFile))
	if err != nil {
		return nil, nil
	}
	var addresses []netip.AddrPort
	for line := range strings.Lines(string(text)) {
		if address, err := netip.ParseAddrPort(strings.TrimSpace(line)); err == nil {
			addresses = append(addresses, address)
		}
	}
	return addresses, nil
}

// Answering returns the first address of the daemon of a run-time directory that accepts a connection; it is not valid if
// none does, because a daemon that was killed leaves its addresses behind. The error says why the directory is not trusted.
func Answering(ctx context.Context, dialer *net.Dialer, path string) (netip.AddrPort, error) {
	addresses, err := Listening(path)
	for _, address := range addresses {
		if conn, err := dialer.DialContext(ctx, "tcp", address.String()); err == nil {
			conn.Close()
			return address, nil
		}
	}
	return netip.AddrPort{}, err
}

// Dial connects to an admin socket. The process at the other end must be root's or ours; if we are root, it may also be that
// of the directory's owner. Nobody else learns what we ask. The error is [os.ErrNotExist] if there is no such socket.
func Dial(ctx context.Context, socket string) (net.Conn, error) {
	d, err := open(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer d.file.Close()
	fd, err := unix.Openat(int(d.file.Fd()), filepath.Base(socket), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: socket, Err: err}
	}
	held := os.NewFile(uintptr(fd), socket)
	defer held.Close()
	info, err := held.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != os.ModeSocket {
		return nil, problem.Failed(hintForeign, fmt.Errorf("%s is no socket", socket))
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", safepath.ProcPath(held))
	if err != nil {
		return nil, err
	}
	if err := d.checkPeer(conn.(*net.UnixConn), socket); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// A dir is a run-time directory whose owner has been checked.
type dir struct {
	file  *os.File // O_PATH
	owner uint32
}

// open opens a run-time directory, or the directory of an admin socket. The directory must belong to root, to us, or to a
// user to whom root has given a directory that the user could not have made there (/run/imdsfs, to the daemon's user). It is
// refused if anybody else could exchange its files, or if a symbolic link of another user leads to it. The error is
// [os.ErrNotExist] if there is none.
func open(path string) (*dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	w := &walker{}
	file, entry, err := safepath.Walk(path, w)
	if err != nil {
		return nil, foreign(err)
	}
	owner := entry.Stat.Uid
	switch {
	case !entry.IsDir():
		err = fmt.Errorf("%s is no directory", entry.Path)
	case safepath.WritableByOthers(&entry.Stat) && entry.Stat.Mode&unix.S_ISVTX == 0:
		err = &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("is writable by others (mode %04o)", entry.Stat.Mode&0o7777)}
	case !safepath.IsOurs(owner) && w.refusal != nil:
		err = &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("belongs to uid %d, neither to root nor to you", owner)}
	}
	if err != nil {
		return nil, errors.Join(foreign(err), file.Close())
	}
	return &dir{file, owner}, nil
}

// foreign adds a hint to the error of a path that is not trusted.
func foreign(err error) error {
	var refused *safepath.Error
	if errors.As(err, &refused) {
		return problem.Failed(hintForeign, err)
	}
	return err
}

// A walker walks the path to a run-time directory. It refuses symbolic links of other users, and notes why another user could
// exchange a part of the path.
type walker struct{ refusal error }

func (w *walker) Name(parent, entry *safepath.Entry) error {
	if entry.Stat.Mode&unix.S_IFMT == unix.S_IFLNK && !safepath.IsOurs(entry.Stat.Uid) {
		return &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("is a symbolic link of uid %d", entry.Stat.Uid)}
	}
	if w.refusal == nil {
		w.refusal = safepath.Policy{}.Name(parent, entry)
	}
	return nil
}

func (w *walker) Link(_, _ *safepath.Entry) error { return nil }

// openFile opens a regular file in the directory for reading. It returns nil unless the file belongs to root, to us or to the
// directory's owner.
func (d *dir) openFile(name string) *os.File {
	fd, err := unix.Openat(int(d.file.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || !safepath.IsOurs(st.Uid) && (st.Uid != d.owner || safepath.IsUnknown(st.Uid)) {
		unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.file.Name(), name))
}

// checkPeer returns an error unless the daemon is at the other end of the connection.
func (d *dir) checkPeer(conn *net.UnixConn, socket string) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { peer, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, inner); err != nil {
		return fmt.Errorf("who answers at %s: %w", socket, err)
	}
	if peer.Uid == 0 || int(peer.Uid) == os.Geteuid() || privilege.IsRoot() && peer.Uid == d.owner && !safepath.IsUnknown(d.owner) {
		return nil
	}
	return problem.Failed("see who it is, and name the daemon's own with --admin or --runtime-dir; or run this as root or as the daemon's user",
		fmt.Errorf("a process of uid %d answers at %s: nothing was sent to it", peer.Uid, socket))
}
