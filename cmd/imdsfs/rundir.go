package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

const hintForeign = "if the daemon of that user is meant, run this as that user; else name another directory with --runtime-dir"

// A runDir is a daemon's run-time directory, as a client sees it that has looked whose it is.
type runDir struct {
	file  *os.File // O_PATH
	owner uint32
}

// openRunDir opens a run-time directory, or that of an admin socket. It must belong to root or to us, or to somebody
// whom root has given a directory that he could not have put there himself: /run/imdsfs, to a daemon's user. Nobody
// else may be able to exchange what is in it, and no symbolic link of somebody else may lead there. The error is
// [fs.ErrNotExist] if there is none.
func openRunDir(path string) (*runDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	way := &clientWay{}
	file, entry, err := safepath.Walk(path, way)
	if err != nil {
		return nil, foreign(err)
	}
	owner := entry.Stat.Uid
	switch {
	case !entry.IsDir():
		err = fmt.Errorf("%s is no directory", entry.Path)
	case safepath.WritableByOthers(&entry.Stat) && entry.Stat.Mode&unix.S_ISVTX == 0:
		err = &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("is writable by others (mode %04o)", entry.Stat.Mode&0o7777)}
	case !safepath.IsOurs(owner) && way.refusal != nil:
		err = &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("belongs to uid %d, neither to root nor to you", owner)}
	}
	if err != nil {
		return nil, errors.Join(foreign(err), file.Close())
	}
	return &runDir{file, owner}, nil
}

func foreign(err error) error {
	var refused *safepath.Error
	if errors.As(err, &refused) {
		return problem.Failed(hintForeign, err)
	}
	return err
}

// A clientWay refuses links of others, and notes why others could exchange something on the way.
type clientWay struct{ refusal error }

func (w *clientWay) Name(dir, entry *safepath.Entry) error {
	if entry.Stat.Mode&unix.S_IFMT == unix.S_IFLNK && !safepath.IsOurs(entry.Stat.Uid) {
		return &safepath.Error{Path: entry.Path, Reason: fmt.Sprintf("is a symbolic link of uid %d", entry.Stat.Uid)}
	}
	if w.refusal == nil {
		w.refusal = safepath.Policy{}.Name(dir, entry)
	}
	return nil
}

func (w *clientWay) Link(_, _ *safepath.Entry) error { return nil }

// open opens a file in the directory to read it; nil if it is none of root's, of ours or of the directory's owner.
// A symbolic link, a FIFO and a device are none either.
func (d *runDir) open(name string) *os.File {
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

// dialDaemon connects to an admin socket. It returns only a connection to a process of root's or of our own, or, if
// we are root, of the owner of the directory: nobody else is to read what we ask for.
func dialDaemon(ctx context.Context, socket string) (net.Conn, error) {
	dir, err := openRunDir(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer dir.file.Close()
	fd, err := unix.Openat(int(dir.file.Fd()), filepath.Base(socket), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
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
	if err := dir.admits(conn.(*net.UnixConn), socket); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// admits refuses a connection to somebody else than the daemon.
func (d *runDir) admits(conn *net.UnixConn, socket string) error {
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
	if peer.Uid == 0 || int(peer.Uid) == os.Geteuid() || os.Geteuid() == 0 && peer.Uid == d.owner && !safepath.IsUnknown(d.owner) {
		return nil
	}
	return problem.Failed("see who it is, and name the daemon's own with --admin or --runtime-dir; or run this as root or as the daemon's user",
		fmt.Errorf("a process of uid %d answers at %s: nothing was sent to it", peer.Uid, socket))
}

// runtimeDirs are the run-time directories in which to look for a daemon: that of the flag, else our own and that of
// the machine's service.
func runtimeDirs(flag string) []string {
	own := daemon.DefaultRuntimeDir()
	switch {
	case flag != "":
		return []string{flag}
	case own == daemon.RootRuntimeDir:
		return []string{own}
	}
	return []string{own, daemon.RootRuntimeDir}
}

// answering is the first address of the daemon with the run-time directory dir at which somebody answers; not valid if
// there is none: a daemon that was killed leaves its addresses behind. The error says why the directory is not believed.
func answering(ctx context.Context, dialer *net.Dialer, dir string) (netip.AddrPort, error) {
	addresses, err := listening(dir)
	for _, address := range addresses {
		if conn, err := dialer.DialContext(ctx, "tcp", address.String()); err == nil {
			conn.Close()
			return address, nil
		}
	}
	return netip.AddrPort{}, err
}
